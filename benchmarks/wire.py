"""Messages: time to write and read one, and bytes at each sparsity.

Claims: encoding and decoding an update of 1.6 M parameters (the shapes of ``cnn``) at
95 % sparsity takes at most 25 ms, its masks sent whole, known, or as the changes since
a mask of 94 %. Compressed messages are shorter with their bytes in planes.

Work: normal numbers in the shapes of the model, the largest of them kept, all in one
thread of NumPy. The contestants, ways to code the masks, take turns. Sizes are of one
message at each sparsity, by form of the values and with zstd, over the dense float32
numbers; for "zstd alone" the message that is not in planes is compressed.

    python benchmarks/wire.py                     # half a minute
    python benchmarks/wire.py --out FILE.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import zstandard
from common import write_result

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import models, pruning
from fedsparsify_jax.data import Normalization
from fedsparsify_jax.deploy import wire
from fedsparsify_jax.types import Masks, Variables

GOAL, SPARSITY, BEFORE = 0.025, 0.95, 0.94
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95, 0.99)
Update = tuple[Variables, Masks]


def updates() -> Callable[[float], Update]:
    """Returns the function that prunes random numbers to a sparsity."""
    model = models.build(
        "cnn", input_shape=(32, 32, 3), num_classes=10, preprocess=Normalization(0, 256)
    )
    rng = np.random.default_rng(0)
    variables = jax.tree.map(
        lambda leaf: 0.05 * rng.standard_normal(leaf.shape, dtype=np.float32),
        jax.eval_shape(model.init, jax.random.key(0)),
    )

    def pruned(sparsity: float) -> Update:
        masks = pruning.prune(pruning.magnitude(variables), sparsity)
        kept = mask_algebra.apply(masks, variables)
        return jax.tree.map(np.asarray, kept), jax.tree.map(np.asarray, masks)

    return pruned


def times(pruned: Callable[[float], Update], turns: int) -> dict[str, Any]:
    """Seconds of encoding and decoding, by how the masks are coded."""
    (variables, masks), (_, before) = pruned(SPARSITY), pruned(BEFORE)
    ways: dict[str, dict[str, Any]] = {
        "sent": {},
        "known": {"known": masks},
        "previous": {"previous": before},
    }
    seconds: dict[str, dict[str, list[float]]] = {
        way: {"encode": [], "decode": []} for way in ways
    }
    for _ in range(turns):
        for way, receiver in ways.items():
            start = time.perf_counter()
            message = wire.encode(variables, masks, **receiver)
            between = time.perf_counter()
            decoded = wire.decode(message, **receiver)
            end = time.perf_counter()
            seconds[way]["encode"].append(between - start)
            seconds[way]["decode"].append(end - between)
            for one, other in zip(
                jax.tree.leaves(decoded.variables),
                jax.tree.leaves(variables),
                strict=True,
            ):
                assert np.array_equal(one, other)
    for way, parts in seconds.items():
        both = median(parts["encode"], parts["decode"])
        print(
            f"masks {way:8} encode {1e3 * median(parts['encode']):5.1f} ms, decode "
            f"{1e3 * median(parts['decode']):5.1f} ms, both {1e3 * both:5.1f} ms "
            f"(goal <= {1e3 * GOAL:.0f})",
            flush=True,
        )
    medians = {
        way: {name: median(values) for name, values in parts.items()}
        | {"both": median(parts["encode"], parts["decode"])}
        for way, parts in seconds.items()
    }
    return {"seconds": seconds, "medians": medians}


def median(*parts: list[float]) -> float:
    """Median of turns, each the sum of its parts."""
    return statistics.median(map(sum, zip(*parts, strict=True)))


def sizes(pruned: Callable[[float], Update]) -> dict[str, dict[str, int]]:
    """Bytes of messages at each sparsity, the positions whole."""
    table: dict[str, dict[str, int]] = {}
    for sparsity in SPARSITIES:
        variables, masks = pruned(sparsity)
        row = {"dense": 4 * sum(leaf.size for leaf in jax.tree.leaves(variables))}
        for values in wire.VALUES:
            plain = wire.encode(variables, masks, values=values)
            row[values] = len(plain)
            row[f"{values}, zstd alone"] = len(zstandard.compress(plain, 3))
            row[f"{values}, zstd"] = len(
                wire.encode(variables, masks, values=values, compress="zstd")
            )
        row["float32, masks known"] = len(wire.encode(variables, known=masks))
        table[str(sparsity)] = row
        shares = (f"{name} {size / row['dense']:.4f}" for name, size in row.items())
        print(f"sparsity {sparsity}: {', '.join(shares)}", flush=True)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=25)
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    pruned = updates()
    result = {"turns": arguments.turns, **times(pruned, arguments.turns)}
    result["sizes"] = sizes(pruned)
    if arguments.out:
        write_result(arguments.out, result)


if __name__ == "__main__":
    main()
