"""Test accuracy under attack: every defence against every attack on FashionMNIST.

Measured, not claimed: the table of docs/robustness.md. FedSparsify-Global at 90 % (and,
for poisoned masks, FedSparsify-Local too), 20 clients of 1,000 examples that all take
part, the 118,282-parameter MLP, one local epoch of batches of 32, SGD 0.05, 40 rounds,
one seed; 0, 10 and 30 % of the clients are hostile. Accuracy on the 10,000 test images
after the last round.

    python benchmarks/robustness.py --out benchmarks/results-robustness.json
    python benchmarks/robustness.py --table benchmarks/results-robustness.json

The first command writes cell by cell and goes on where it was interrupted (76 cells, a
few seconds each on 2 idle cores); the second prints the table as Markdown.
"""

import argparse
import functools
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from common import write_result

from fedsparsify_jax import algorithms, client_map, data, models
from fedsparsify_jax.engine.wrappers import attacks
from fedsparsify_jax.engine.wrappers.attacks import Attack
from fedsparsify_jax.metrics import evaluate
from fedsparsify_jax.training.losses import TASKS

CLIENTS, EXAMPLES, ROUNDS, BATCH, RATE, SPARSITY = 20, 1000, 40, 32, 0.05, 0.9
SHARES = (0.1, 0.3)
DEFENCES: dict[str, dict[str, Any]] = {
    "none (mean)": {},
    "clip to norm 1": {"clip_norm": 1.0},
    "median": {"merge": "median"},
    "trimmed-mean": {"merge": "trimmed-mean"},
    "krum": {"merge": "krum"},
    "multi-krum": {"merge": "multi-krum"},
    "geometric-median": {"merge": "geometric-median"},
}
BUILDERS = {
    "global": algorithms.fedsparsify_global,
    "local": algorithms.fedsparsify_local,
}
PARTITIONS = ("iid", "2 classes")
NOBODY = "nobody"


def wanted() -> Iterator[tuple[str, str, str, str, float]]:
    """Cells as ``(algorithm, partition, defence, attack, share)``, by program."""
    for partition, algorithm in (
        ("iid", "global"),
        ("iid", "local"),
        ("2 classes", "global"),
    ):
        for defence in DEFENCES:
            yield algorithm, partition, defence, NOBODY, 0.0
            names = attacks.NAMES
            if algorithm == "local":
                names = ("mask-poisoning",)
            if partition != "iid":
                names = ("sign-flip",)
            for attack, share in itertools.product(names, SHARES):
                yield algorithm, partition, defence, attack, share


def any_attack(kind: jax.Array, share: jax.Array, classes: int) -> Attack:
    """The attack of a number, so that one program plays all of them."""
    each = [attacks.named(name, share, num_classes=classes) for name in attacks.NAMES]
    flips = attacks.NAMES.index("label-flip")
    poison = each[flips].poison
    assert poison is not None

    def poisoned(own: Any) -> Any:
        y = jnp.where(kind == flips, poison(own).y, own.y)
        return own._replace(y=y)

    def forge(*arguments: Any) -> Any:
        def made(attack: Attack) -> Any:
            return attack.forge or (lambda upload, *_: upload)

        return jax.lax.switch(kind, [made(attack) for attack in each], *arguments)

    return Attack(share, poisoned, forge)


@functools.cache
def federation(partition: str) -> tuple[Any, Any]:
    dataset = data.load("fashion_mnist")
    train = data.balanced_subset(dataset.train, CLIENTS * EXAMPLES, 0)
    if partition == "iid":
        parts = data.iid(train.y, CLIENTS, 0)
    else:
        parts = data.label_shards(train.y, CLIENTS, 2, 0)
    return dataset, data.stack(train, parts)


@functools.cache
def program(algorithm: str, partition: str, defence: str) -> Any:
    """``(kind of attack, share) -> test accuracy``: a whole run, compiled once."""
    dataset, clients = federation(partition)
    model = models.build(
        "mlp",
        input_shape=(28, 28),
        num_classes=10,
        preprocess=dataset.normalization,
    )
    task = TASKS[dataset.task]

    def run(kind: jax.Array, share: jax.Array, clients: Any, test: Any) -> Any:
        made = BUILDERS[algorithm](
            model.apply,
            final_sparsity=SPARSITY,
            rounds=ROUNDS,
            learning_rate=RATE,
            batch_size=BATCH,
            local_epochs=1,
            client_map=client_map.chunked(1),
            attack=any_attack(kind, share, 10),
            **DEFENCES[defence],
        )
        state = made.init(jax.random.key(0), model.init(jax.random.key(1)))

        def one(state: Any, t: jax.Array) -> Any:
            return made.step(jax.random.fold_in(jax.random.key(2), t), state, clients)

        state, infos = jax.lax.scan(one, state, jnp.arange(ROUNDS))
        seen = evaluate(
            model.apply,
            task.loss_fn,
            state.variables,
            test,
            metric_fn=task.metric_fn,
            batch_size=1000,
        )
        return seen.metric, infos.sparsity[-1], jnp.sum(infos.rejected)

    test = jax.tree.map(np.asarray, dataset.test)
    compiled = jax.jit(run)
    return lambda kind, share: compiled(kind, share, clients, test)


def play(cell: tuple[str, str, str, str, float]) -> dict[str, Any]:
    algorithm, partition, defence, attack, share = cell
    kind = attacks.NAMES.index(attack) if attack in attacks.NAMES else 0
    start = time.perf_counter()
    run = program(algorithm, partition, defence)
    accuracy, sparsity, rejected = run(jnp.int32(kind), jnp.float32(share))
    return {
        "cell": list(cell),
        "accuracy": round(float(accuracy), 4),
        "sparsity": round(float(sparsity), 4),
        "rejected": int(rejected),
        "seconds": round(time.perf_counter() - start, 1),
    }


def table(cells: list[dict[str, Any]]) -> str:
    """Markdown: a line for each defence, a column for each attack and share, in %.

    What has no measured cell is left out.
    """
    found = {tuple(entry["cell"]): entry["accuracy"] for entry in cells}
    kinds: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for algorithm, partition, defence, attack, share in wanted():
        if (algorithm, partition, defence, attack, share) not in found:
            continue
        column, columns = (attack, share), kinds.setdefault((algorithm, partition), [])
        if column not in columns:
            columns.append(column)
    tables = []
    for (algorithm, partition), columns in kinds.items():
        heads = [
            attack if attack == NOBODY else f"{attack} {100 * share:.0f} %"
            for attack, share in columns
        ]
        lines = [
            f"FedSparsify-{algorithm.capitalize()}, {partition}:",
            "",
            f"| defence | {' | '.join(heads)} |",
            "|---|" + "--:|" * len(columns),
        ]
        for defence in DEFENCES:
            each = [found.get((algorithm, partition, defence, *c)) for c in columns]
            if not any(each):
                continue
            said = ["-" if a is None else f"{100 * a:.1f}" for a in each]
            lines.append(f"| {defence} | {' | '.join(said)} |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="play what this file lacks")
    parser.add_argument("--table", type=Path, help="print this file's table")
    arguments = parser.parse_args()
    if arguments.table:
        print(table(json.loads(arguments.table.read_text())["cells"]))
        return
    cells: list[dict[str, Any]] = []
    if arguments.out and arguments.out.exists():
        cells = json.loads(arguments.out.read_text())["cells"]
    done = {tuple(entry["cell"]) for entry in cells}
    for cell in wanted():
        if cell in done:
            continue
        cells.append(play(cell))
        print(json.dumps(cells[-1]), flush=True)
        if arguments.out:
            write_result(arguments.out, {"cells": cells})
    print(table(cells))


if __name__ == "__main__":
    main()
