"""Encrypted aggregation: time and bytes of a round by sparsity.

Claims: clients that encrypt surviving weights alone send at most a ninth of the dense
bytes at 90 % sparsity and an eighteenth at 95 %, in less time, and the mean of ten
clients is within 1e-6 of the largest weight.

Work: normal numbers in the shapes of `mlp` (118,282 weights) and `cnn` (1.6 M), the
largest of them kept, the same masks for all clients; each client's are others. One
process, one thread. The sparsities take turns. Times are medians: of packing and
encrypting one client's numbers, of adding all clients' messages, of decrypting and
unpacking the sum.

    python benchmarks/encryption.py                     # some minutes
    python benchmarks/encryption.py --small             # seconds, to see that it works
    python benchmarks/encryption.py --out FILE.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from common import write_result

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import models, pruning
from fedsparsify_jax.deploy import encrypted, wire
from fedsparsify_jax.types import Masks, Variables

SPARSITIES = (0.0, 0.8, 0.9, 0.95, 0.99)
GOALS = {0.9: 9.0, 0.95: 18.0}
ERROR = 1e-6
PARTS = ("encrypt", "add", "decrypt")


class Round(NamedTuple):
    """One round's work."""

    variables: list[Variables]  # of each client
    masks: Masks
    shares: np.ndarray


class Outcome(NamedTuple):
    """All that is measured of one round."""

    seconds: dict[str, list[float]]  # by part
    bytes: int  # of one client's message
    error: float  # the largest, over the largest weight
    error_over_rms: float


def shapes(small: bool) -> dict[str, Any]:
    """Models by name, as shapes."""
    options: dict[str, dict[str, Any]] = {
        "mlp": {"input_shape": (8, 8) if small else (28, 28), "num_classes": 10},
    }
    if not small:
        options["cnn"] = {"input_shape": (32, 32, 3), "num_classes": 10}
    return {
        name: jax.eval_shape(
            models.build(name, **options[name]).init, jax.random.key(0)
        )
        for name in options
    }


def prepared(model: Any, sparsity: float, clients: int) -> Round:
    """Random clients of one sparsity, close to a global model."""
    rng = np.random.default_rng(0)

    def normal(scale: float, like: Any) -> Any:
        return jax.tree.map(
            lambda leaf: scale * rng.standard_normal(leaf.shape, np.float32), like
        )

    start = normal(0.05, model)
    masks = pruning.prune(pruning.magnitude(start), sparsity)
    variables = []
    for _ in range(clients):
        trained = jax.tree.map(np.add, start, normal(0.005, model))
        kept = mask_algebra.apply(masks, trained)
        variables.append(jax.tree.map(np.asarray, kept))
    sizes = rng.integers(100, 1000, clients)
    return Round(
        variables=variables,
        masks=jax.tree.map(np.asarray, masks),
        shares=sizes / sizes.sum(),
    )


def carried_out(work: Round, keys: encrypted.Keys) -> Outcome:
    """Runs a round with all its parties."""
    variables, masks, shares = work
    seconds: dict[str, list[float]] = {part: [] for part in PARTS}
    terms = encrypted.terms_of(variables[0], masks, round=1, clients=len(shares))

    def timed(part: str, call: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = call()
        seconds[part].append(time.perf_counter() - start)
        return result

    def encrypt(tree: Variables, share: float) -> bytes:
        numbers = encrypted.pack(tree, masks)
        return encrypted.encrypt(numbers, keys.public, share, terms)

    def decrypt(message: bytes) -> Variables:
        total = encrypted.decrypt(message, keys.secret, terms)
        return encrypted.unpack(total.mean, masks, variables[0])

    messages = [
        timed("encrypt", lambda pair=pair: encrypt(*pair))
        for pair in zip(variables, shares, strict=True)
    ]
    total = timed("add", lambda: encrypted.add(messages, keys.public, terms))
    mean = timed("decrypt", lambda: decrypt(total))
    rows = [encrypted.pack(tree, masks) for tree in variables]
    expected = np.average(rows, axis=0, weights=shares)
    error = np.abs(encrypted.pack(mean, masks) - expected).max()
    return Outcome(
        seconds=seconds,
        bytes=len(messages[0]),
        error=float(error / np.abs(expected).max()),
        error_over_rms=float(error / np.sqrt(np.mean(expected**2))),
    )


def rows_of(model: Any, clients: int, turns: int) -> dict[str, dict[str, Any]]:
    """All figures of one model by sparsity."""
    keys = encrypted.make_keys()
    works = {sparsity: prepared(model, sparsity, clients) for sparsity in SPARSITIES}
    outcomes: dict[float, list[Outcome]] = {sparsity: [] for sparsity in works}
    for _ in range(turns):
        for sparsity, work in works.items():
            outcomes[sparsity].append(carried_out(work, keys))
    rows = {s: row_of(outcomes[s], works[s]) for s in works}
    dense = rows[0.0]
    for row in rows.values():
        row["fewer_bytes"] = dense["bytes"] / row["bytes"]
        row["less_time"] = {
            part: dense["medians"][part] / row["medians"][part] for part in PARTS
        }
    return {str(sparsity): row for sparsity, row in rows.items()}


def row_of(outcomes: list[Outcome], work: Round) -> dict[str, Any]:
    """The figures of one sparsity."""
    seconds = {
        part: [value for one in outcomes for value in one.seconds[part]]
        for part in PARTS
    }
    return {
        "numbers": len(encrypted.pack(work.variables[0], work.masks)),
        "bytes": outcomes[0].bytes,
        "bytes_in_plaintext": len(wire.encode(work.variables[0], known=work.masks)),
        "error": max(one.error for one in outcomes),
        "error_over_rms": max(one.error_over_rms for one in outcomes),
        "medians": {part: statistics.median(seconds[part]) for part in PARTS},
        "seconds": seconds,
    }


def shown(sparsity: str, row: dict[str, Any], goal: float | None) -> str:
    """One line of one sparsity's figures."""
    times = ", ".join(
        f"{part} {1e3 * row['medians'][part]:.1f} ms ({row['less_time'][part]:.1f} x)"
        for part in PARTS
    )
    return (
        f"  sparsity {sparsity}: {row['numbers']:,} numbers, {row['bytes']:,} bytes, "
        f"{row['fewer_bytes']:.2f} x fewer"
        + (f" (goal >= {goal:g})" if goal else "")
        + f"; {times}; error {row['error']:.1e} (goal <= {ERROR:.0e})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--small", action="store_true", help="one small model, 1 turn")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    turns = 1 if arguments.small else arguments.turns
    table = {}
    for name, model in shapes(arguments.small).items():
        weights = sum(leaf.size for leaf in jax.tree.leaves(model))
        print(f"{name}, {weights:,} weights", flush=True)
        rows = rows_of(model, arguments.clients, turns)
        for sparsity, row in rows.items():
            goal = None if arguments.small else GOALS.get(float(sparsity))
            print(shown(sparsity, row, goal), flush=True)
        table[name] = {"weights": weights, "sparsities": rows}
    if arguments.out:
        about = {"clients": arguments.clients, "turns": turns}
        versions = {"tenseal": metadata.version("tenseal")}
        write_result(arguments.out, {**about, **versions, "models": table})


if __name__ == "__main__":
    main()
