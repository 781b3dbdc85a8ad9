"""Why the second edition of FedSparsify-Plus does what it does, looked at from inside.

Claim, of which the first half did not hold (docs/fedsparsify_plus_why.md): cohorts of
all classes make the clients' moves add up and successive moves agree, which is what a
look-ahead needs; and the importance lets go of weights that are still where they
started. Five methods, to 99 %, all with momentum and averaging 0.9:

``control``    FedSparsify-Global
``helped``     the same with representative cohorts and a look-ahead of 0.5
``first``      FedSparsify-Plus, the first edition
``cohorts``    the second without its look-ahead
``second``     the second

Measured on 10 % of the training images that are held out, of the model that is trained,
not of its average. In every round: loss and accuracy; the cosine of this round's move
and the one before, of the kept weights; how much of the clients' moves survives their
mean (`geometry.shared_direction`); the kept weights of every layer; the share of them
within a tenth of their value of where they started. Every tenth round, and in the last:
the Jaccard index of masks that keep the better half of what is kept, each client's own
(chance: 1/3); the gradient flow of kept and of pruned weights; the loss barrier between
the first five clients; the mean loss of the clients' models, and that of their mean.

    python -m experiments.studies.second_why [--seeds 0 1 2]

Expected: 30 runs of 200 rounds (FashionMNIST, 100 clients at 10 %), half an hour on one
free core; a finished run is not run again.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from rich.console import Console

from experiments.lib import geometry, provenance
from experiments.lib.results import RESULTS, path_of, study_lines
from experiments.studies.second_why_page import FEDERATIONS, METHODS, NAME
from fedsparsify_jax import pruning, trees
from fedsparsify_jax.algorithms.fedsparsify_plus import importance
from fedsparsify_jax.metrics.evaluation import Evaluation, evaluate
from fedsparsify_jax.runner import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.federation import (
    Federation,
    Keys,
    assemble,
    round_key,
)
from fedsparsify_jax.types import Masks, RoundInfo, State, Variables

EVERY, PAIRED, NEAR = 10, 5, 0.1
"""Rounds between what is seldom measured, clients with barriers between them, and how
near to its start a weight is still there, as a share of itself."""


class Before(NamedTuple):
    """Holds what a round is measured against."""

    state: State  # of the end of the round before
    move: Variables  # of that round's model


def configuration(method: str, partition: str, seed: int, **changed: Any) -> Any:
    """Returns the configuration of a run, resolved."""
    options: dict[str, Any] = {
        "dataset": "fashion_mnist",
        "validation_fraction": 0.1,
        "num_clients": 100,
        "participation": 0.1,
        "rounds": 200,
        "final_sparsity": 0.99,
        "momentum": 0.9,
        "server_ema": 0.9,
        "measure_bytes": True,  # so that a round shows the clients' models
        "partition": partition,
        "seed": seed,
        **METHODS[method].options,
        **changed,
    }
    return resolve(TrainConfig(**options))


def _held_out(federation: Federation) -> Callable[[Variables], Evaluation]:
    """Returns what evaluates a model on the held-out images."""
    examples = federation.dataset.validation
    assert examples is not None
    apply, loss_fn = federation.model.apply, federation.task.loss_fn
    return lambda variables: evaluate(apply, loss_fn, variables, examples)


def _difference(new: Variables, old: Variables) -> Variables:
    return jax.tree.map(jnp.subtract, new["params"], old["params"])


def _own_masks(
    score: Callable[[Variables], Variables], uploads: Variables, kept: Masks
) -> Masks:
    """Returns the better half of what is kept, as each client would choose it."""
    params = kept["params"]
    sparsity = 1 - trees.nonzeros(params) / (2 * trees.size(params))

    def of_client(variables: Variables) -> Masks:
        return pruning.prune(score(variables), sparsity, within=kept)

    return jax.lax.map(of_client, uploads)["params"]


def _still(params: Variables, first: Variables, kept: Masks) -> jax.Array:
    """Returns the share of the kept weights that are where they started, or near it."""

    def near(w: jax.Array, start: jax.Array, mask: jax.Array) -> jax.Array:
        return jnp.sum(mask & (jnp.abs(w - start) < NEAR * jnp.abs(w)))

    counts = jax.tree.leaves(jax.tree.map(near, params, first, kept))
    total = trees.nonzeros(kept)
    return jnp.sum(jnp.stack(counts)) / total


def often_measured(federation: Federation, first: Variables) -> Callable[..., Any]:
    """Returns what measures every round: ``(before, state, info) -> move, numbers``.

    Args:
      federation: of the run.
      first: the model that the run started from.
    """
    held_out = _held_out(federation)

    def measure(before: Before, state: State, info: RoundInfo) -> Any:
        kept = state.masks["params"]
        moved = _difference(state.variables, before.state.variables)
        move = jax.tree.map(jnp.multiply, kept, moved)
        earlier = jax.tree.map(jnp.multiply, kept, before.move)
        sent = info.messages
        assert sent
        moves = jax.tree.map(
            lambda new, old: new - old[None],
            sent.uploads["params"],
            sent.variables["params"],
        )
        quality = held_out(state.variables)
        return moved, {
            "loss": quality.loss,
            "accuracy": quality.metric,
            "turn": geometry.cosine(move, earlier),
            "together": geometry.shared_direction(moves),
            "still": _still(state.variables["params"], first["params"], kept),
        }

    return measure


def seldom_measured(
    federation: Federation, method: str, first: Variables
) -> Callable[..., dict[str, jax.Array]]:
    """Returns what measures some rounds: ``(before, state, info) -> numbers``.

    Args:
      federation: of the run.
      method: a key of `METHODS`, whose importance chooses the clients' masks.
      first: the model that the run started from.
    """
    held_out = _held_out(federation)
    by_movement = METHODS[method].options["algorithm"] == "fedsparsify-plus"

    def score(variables: Variables) -> Variables:
        if by_movement:
            return importance(variables, first)
        return pruning.magnitude(variables)

    def loss(variables: Variables) -> jax.Array:
        return held_out(variables).loss

    def measure(before: Before, state: State, info: RoundInfo) -> dict[str, jax.Array]:
        assert info.messages
        uploads = info.messages.uploads
        own = _own_masks(score, uploads, before.state.masks)
        inside, outside = geometry.gradient_flow(loss, state.variables, state.masks)
        merged = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), uploads)
        some = trees.take(uploads, jnp.arange(min(PAIRED, trees.leading_size(uploads))))
        return {
            "overlap": geometry.jaccard(own),
            "flow": inside,
            "flow_pruned": outside,
            "barrier": geometry.barrier(loss, some),
            "clients_loss": jnp.mean(jax.lax.map(loss, uploads)),
            "merged_loss": loss(merged),
        }

    return measure


def observe(config: TrainConfig, method: str) -> dict[str, Any]:
    """Runs a federation and looks on; returns a line of the results.

    Args:
      config: resolved.
      method: a key of `METHODS`.
    """
    federation = assemble(config)
    algorithm, clients = federation.algorithm, federation.clients
    keys = Keys.from_seed(config.seed)
    first = federation.model.init(keys.model)
    step = jax.jit(algorithm.step)
    often = jax.jit(often_measured(federation, first))
    seldom = jax.jit(seldom_measured(federation, method, first))
    state = algorithm.init(keys.state, first)
    before = Before(state, jax.tree.map(jnp.zeros_like, first["params"]))
    rows: list[dict[str, float]] = []
    start, rounds = time.perf_counter(), config.rounds or 0
    for completed in range(rounds):
        key = round_key(keys.rounds, jnp.int32(completed))
        state, info = step(key, before.state, clients)
        move, numbers = often(before, state, info)
        if completed % EVERY == EVERY - 1 or completed == rounds - 1:
            numbers |= seldom(before, state, info)
        kept = {f"kept {name}": count for name, count in info.kept.items()}
        rows.append({name: float(value) for name, value in (numbers | kept).items()})
        before = Before(state, move)
    average = _held_out(federation)(algorithm.model(state))
    sizes = dict(trees.named_leaves(jax.tree.map(jnp.size, first)))
    return {
        "method": method,
        "partition": config.partition,
        "seed": config.seed,
        "rounds": rounds,
        "final_sparsity": config.final_sparsity,
        "commit": provenance.commit(),
        "dirty": provenance.dirty(),
        "machine": provenance.machine(),
        "seconds": round(time.perf_counter() - start, 1),
        "average_accuracy": round(float(average.metric), 4),
        "sizes": {name: int(sizes[name]) for name in info.kept},
        "curves": _curves(rows),
    }


def _curves(rows: Sequence[dict[str, float]]) -> dict[str, list[float | None]]:
    """Returns numbers by name, a value a round, None where it was not measured."""
    names = sorted({name for row in rows for name in row})
    return {name: [_short(row.get(name)) for row in rows] for name in names}


def _short(value: float | None) -> float | None:
    """Returns a count as it is, and another number with four digits that count.

    >>> _short(0.123456), _short(100352.0), _short(None)
    (0.1235, 100352, None)
    """
    if value is None:
        return None
    return int(value) if value.is_integer() else float(f"{value:.4g}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes it, run by run."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.studies.{NAME}")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--preset", default="paper", help="name of the result")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    console = Console(highlight=False)
    file = path_of(NAME, options.preset, options.results)
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = study_lines(NAME, options.preset, options.results)
    done = {(line["method"], line["partition"], line["seed"]) for line in lines}
    for seed, partition, method in itertools.product(
        options.seeds, FEDERATIONS, METHODS
    ):
        if (method, partition, seed) in done:
            continue
        config = configuration(method, partition, seed, rounds=options.rounds)
        line = observe(config, method)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
        console.print(
            f"{method}, {partition}, seed {seed}: held-out accuracy of the average "
            f"{line['average_accuracy']}, {line['seconds']} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
