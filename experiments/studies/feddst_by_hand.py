"""FedDST played by hand beside the table's row: is the row as good as the source?

Claim: FedDST's row of `fashion_mnist` is not below what the published code does with
the same clients, starting weights, rates and numbers of kept weights. Nothing of the
library's engine, masks or pruning is used here: clients train in a loop of plain JAX,
all the rest is NumPy, written from the reading of bibikar/feddst 25d6184 in the file
of the algorithm. Two timings:

``end``
    that of the published code: in rounds 2, 12, ..., 92 clients drop and grow after
    their last epoch; a constant share of .5; growth ranks the gradients of all
    positions, and what it takes is set to zero, kept weights too
``half``
    that of the row: in rounds 1, 11, ..., 91 after 2 of the 4 epochs; a cosine from .5;
    growth among pruned positions only

Both start from the largest weights of every layer, average over the holders, and prune
the union back by magnitude, of equal weights those of the lowest index, as a stable
sort has it.

    python -m experiments.studies.feddst_by_hand [--rounds 200]

Expected: 36 runs of 200 rounds (100 clients at 10 %, two partitions, three sparsities,
three seeds), 20 minutes on 2 free cores; a finished run is not run again.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from experiments.lib import markdown, provenance
from experiments.lib.panels import PARTITIONS
from experiments.lib.reporting import Report
from experiments.lib.results import RESULTS, Results, path_of, study_lines
from experiments.tables import fashion_mnist
from fedsparsify_jax.report.results import spread
from fedsparsify_jax.runner import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.federation import Keys, assemble

NAME = "feddst_by_hand"
TIMINGS = {"half": "by hand, the row's timing", "end": "by hand, the published timing"}
SPARSITIES = (0.9, 0.95, 0.99)
CLIENTS, COHORT, EPOCHS, BATCH, RATE = 100, 10, 4, 32, 0.02
INTERVAL, ALPHA = 10, 0.5

Layers = list[np.ndarray]  # weights and biases of the first layer, of the second, ...


class Data(NamedTuple):
    """Images of the clients and of the test set, as floats from 0 to 1."""

    x: jax.Array  # [N, M, 784]
    y: jax.Array  # [N, M]
    test_x: jax.Array
    test_y: np.ndarray


def logits(layers: Any, x: jax.Array) -> jax.Array:
    """The network's answers: ReLU after every layer but the last."""
    for w, b in zip(layers[:-2:2], layers[1:-2:2], strict=True):
        x = jax.nn.relu(x @ w + b[None])
    return x @ layers[-2] + layers[-1][None]


def _loss(layers: Any, x: jax.Array, y: jax.Array, real: jax.Array) -> jax.Array:
    scores = jax.nn.log_softmax(logits(layers, x))
    losses = -jnp.take_along_axis(scores, y[:, None], axis=1)[:, 0]
    return jnp.sum(losses * real) / jnp.sum(real)


@jax.jit
@partial(jax.vmap, in_axes=(0, 0, 0, 0, 0))
def train(layers: Any, masks: Any, x: jax.Array, y: jax.Array, order: jax.Array) -> Any:
    """Clients' epochs of SGD, masked after each step, and a gradient of the last batch.

    Args:
      layers: ``[K, ...]``, a model a client.
      masks: the same of 0 and 1.
      x: ``[K, M, 784]``.
      y: ``[K, M]``.
      order: ``[K, steps, B]``, examples of every batch; -1 is none.
    """

    def batch(index: jax.Array) -> tuple[jax.Array, ...]:
        return x[index], y[index], (index >= 0).astype(jnp.float32)

    def step(layers: Any, index: jax.Array) -> tuple[Any, None]:
        slopes = jax.grad(_loss)(layers, *batch(index))
        return [
            m * (w - RATE * g) for w, m, g in zip(layers, masks, slopes, strict=True)
        ], None

    layers, _ = jax.lax.scan(step, layers, order)
    return layers, jax.grad(_loss)(layers, *batch(order[-1]))


def orders(rng: np.random.Generator, examples: int, epochs: int) -> np.ndarray:
    """A fresh order of the examples an epoch, in batches; -1 fills the last."""
    rows = []
    for _ in range(epochs):
        row = np.full(-(-examples // BATCH) * BATCH, -1)
        row[:examples] = rng.permutation(examples)
        rows.append(row.reshape(-1, BATCH))
    return np.concatenate(rows)


def budgets(layers: Layers, sparsity: float) -> list[int]:
    """Returns how many weights each layer keeps: ERK, biases whole, in the budget.

    >>> budgets([np.ones((8, 4)), np.ones(4), np.ones((4, 2)), np.ones(2)], 0.5)
    [11, 4, 6, 2]
    """
    sizes = [layer.size for layer in layers]
    kernels = [n for n, layer in enumerate(layers) if layer.ndim == 2]
    kept = int((1 - sparsity) * sum(sizes) + 1 - 1e-4)
    left = kept - (sum(sizes) - sum(sizes[n] for n in kernels))
    density, full = {}, set()
    while True:
        free = [n for n in kernels if n not in full]
        room = left - sum(sizes[n] for n in full)
        scale = room / sum(sum(layers[n].shape) for n in free)
        density = {n: scale * sum(layers[n].shape) / sizes[n] for n in free}
        over = {n for n in free if density[n] > 1}
        if not over:
            break
        full |= over
    return [
        round(density[n] * size) if n in density else size
        for n, size in enumerate(sizes)
    ]


def largest(scores: np.ndarray, count: int) -> np.ndarray:
    """The mask of the largest scores; of equal ones those of the lowest index.

    >>> largest(np.array([1.0, 3.0, 1.0]), 2).tolist()
    [True, True, False]
    """
    order = np.argsort(-scores.ravel(), kind="stable")
    mask = np.zeros(scores.size, bool)
    mask[order[:count]] = True
    return mask.reshape(scores.shape)


def drop_and_grow(
    w: np.ndarray, mask: np.ndarray, slope: np.ndarray, share: float, anywhere: bool
) -> tuple[np.ndarray, np.ndarray]:
    """A layer after its smallest weights went and the largest gradients came."""
    moved = int(share * mask.sum())
    kept = mask & largest(np.where(mask, np.abs(w), -1.0), int(mask.sum()) - moved)
    ranked = np.abs(slope) if anywhere else np.where(kept, -1.0, np.abs(slope))
    grown = largest(ranked, moved)
    fresh = grown if anywhere else grown & ~mask
    return np.where((kept | grown) & ~fresh, w, 0.0), kept | grown


def merge(
    models: list[Layers], masks: list[Layers], counts: list[int]
) -> tuple[Layers, Layers]:
    """The mean over the holders of every weight, and the union pruned back."""
    merged, kept = [], []
    for n, count in enumerate(counts):
        held = np.sum([mask[n] for mask in masks], axis=0)
        total = np.sum(
            [w[n] * m[n] for w, m in zip(models, masks, strict=True)], axis=0
        )
        mean = total / np.maximum(held, 1)
        union = held > 0
        if union.sum() > count:
            union &= largest(np.where(union, np.abs(mean), -1.0), count)
        merged.append((mean * union).astype(np.float32))
        kept.append(union)
    return merged, kept


def share_of(timing: str, t: int, rounds: int) -> float:
    """The share of the weights that round t replaces."""
    first, half = (2, rounds / 2) if timing == "end" else (1, rounds / 2)
    if t < first or (t - first) % INTERVAL or t - 1 >= half:
        return 0.0
    return (
        ALPHA if timing == "end" else ALPHA / 2 * (1 + np.cos(np.pi * (t - 1) / half))
    )


def play_round(
    rng: np.random.Generator,
    data: Data,
    layers: Layers,
    masks: Layers,
    counts: list[int],
    share: float,
    timing: str,
) -> tuple[Layers, Layers]:
    """One round of a cohort."""
    ids = rng.choice(CLIENTS, COHORT, replace=False)
    x, y = data.x[ids], data.y[ids]
    first = EPOCHS if timing == "end" or not share else EPOCHS // 2

    def epochs(models: Any, kept: Any, number: int) -> Any:
        order = np.stack([orders(rng, x.shape[1], number) for _ in ids])
        stacked = [
            np.stack(leaves).astype(np.float32) for leaves in zip(*kept, strict=True)
        ]
        models = [np.stack(leaves) for leaves in zip(*models, strict=True)]
        trained, slopes = jax.device_get(train(models, stacked, x, y, order))
        split = lambda stack: [[leaf[k] for leaf in stack] for k in range(len(ids))]
        return split(trained), split(slopes)

    own = [masks] * COHORT
    models, slopes = epochs([layers] * COHORT, own, first)
    if share:
        pairs = [
            [
                drop_and_grow(w, m, g, share, timing == "end")
                if w.ndim == 2
                else (w, m)
                for w, m, g in zip(*triple, strict=True)
            ]
            for triple in zip(models, own, slopes, strict=True)
        ]
        models = [[w for w, _ in pair] for pair in pairs]
        own = [[m for _, m in pair] for pair in pairs]
        if first < EPOCHS:
            models, _ = epochs(models, own, EPOCHS - first)
    return merge(models, own, counts)


def start(config: TrainConfig) -> tuple[Data, Layers]:
    """The clients and the starting weights of the table's runs of this seed."""
    federation = assemble(config)
    flat = lambda x, y: jnp.asarray(x, jnp.float32).reshape(*y.shape, -1) / 255
    clients, test = federation.clients, federation.dataset.test
    assert clients is not None and np.all(clients.sizes == clients.y.shape[1])
    data = Data(
        flat(clients.x, clients.y), clients.y, flat(test.x, test.y), np.asarray(test.y)
    )
    params = federation.model.init(Keys.from_seed(config.seed).model)["params"]
    layers = [
        np.asarray(params[name][leaf])
        for name in sorted(params)
        for leaf in ("kernel", "bias")
    ]
    return data, layers


def play(config: TrainConfig, timing: str) -> dict[str, Any]:
    """Runs a federation; returns its line."""
    data, layers = start(config)
    counts = budgets(layers, config.final_sparsity)
    masks = [largest(np.abs(w), c) for w, c in zip(layers, counts, strict=True)]
    layers = [w * m for w, m in zip(layers, masks, strict=True)]
    rng, rounds, accuracies = np.random.default_rng(config.seed), config.rounds or 0, []
    answers = jax.jit(lambda layers, x: jnp.argmax(logits(layers, x), axis=-1))
    begin = time.perf_counter()
    for t in range(1, rounds + 1):
        share = share_of(timing, t, rounds)
        layers, masks = play_round(rng, data, layers, masks, counts, share, timing)
        if t > rounds - 5:
            right = np.asarray(answers(layers, data.test_x)) == data.test_y
            accuracies.append(float(right.mean()))
    return {
        "timing": timing,
        "partition": config.partition,
        "rounds": rounds,
        "final_sparsity": config.final_sparsity,
        "seed": config.seed,
        "commit": provenance.commit(),
        "dirty": provenance.dirty(),
        "machine": provenance.machine(),
        "seconds": round(time.perf_counter() - begin, 1),
        "kept": int(sum(mask.sum() for mask in masks)),
        "last_5": round(float(np.mean(accuracies)), 4),
    }


def read(preset: str = "paper", root: Path = RESULTS) -> list[dict[str, Any]]:
    """Returns the lines that there are."""
    return study_lines(NAME, preset, root)


def report(preset: str = "paper", root: Path = RESULTS) -> Report:
    """The row of the table beside the two federations that were played by hand."""
    lines, table = read(preset, root), Results(fashion_mnist.TABLE, preset, root)

    def cell(timing: str, partition: str, sparsity: float) -> str:
        place = {"partition": partition, "final_sparsity": sparsity}
        if timing == "row":
            figure = table.spread("feddst", "last_5", **place)
        else:
            place["timing"] = timing
            figure = spread(
                line["last_5"]
                for line in lines
                if all(line[name] == value for name, value in place.items())
            )
        return figure.text(1, 100) if figure else markdown.EMPTY

    rows = [
        [f"{label}, {PARTITIONS[partition]}"]
        + [cell(timing, partition, sparsity) for sparsity in SPARSITIES]
        for partition in dict.fromkeys(line["partition"] for line in lines)
        for timing, label in {"row": "the table's row", **TIMINGS}.items()
    ]
    content = Report()
    head = ["FedDST", *(f"{100 * s:.0f} %" for s in SPARSITIES)]
    text = markdown.table(head, rows) if rows else "Not measured yet."
    content.add("last_5", "Test accuracy in %, mean of the last five rounds", text)
    return content


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what is missing and writes it, run by run."""
    parser = argparse.ArgumentParser(prog=f"python -m experiments.studies.{NAME}")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--preset", default="paper", help="name of the result")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    console, file = (
        Console(highlight=False),
        path_of(NAME, options.preset, options.results),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    keys = ("partition", "final_sparsity", "seed", "timing")
    done = {
        tuple(line[key] for key in keys)
        for line in read(options.preset, options.results)
    }
    cells = product((0, 1, 2), ("iid", "label-shards"), SPARSITIES, TIMINGS)
    for seed, partition, sparsity, timing in cells:
        if (partition, sparsity, seed, timing) in done:
            continue
        config = TrainConfig(
            dataset="fashion_mnist",
            algorithm="feddst",
            partition=partition,
            num_clients=CLIENTS,
            participation=COHORT / CLIENTS,
            rounds=options.rounds,
            final_sparsity=sparsity,
            seed=seed,
        )
        line = play(resolve(config), timing)
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line, separators=(",", ":")) + "\n")
        console.print(
            f"{timing}, {partition}, {sparsity:.0%}, seed {seed}: "
            f"{line['last_5']:.1%}, {line['kept']} kept, {line['seconds']} s"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
