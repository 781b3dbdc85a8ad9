"""Agreement of clients on their masks: Jaccard index, round by round.

Claim: clients that prune on their own come to agree, because every mask is inside the
global one of the round before. For two masks a and b

    J(a, b) = |a and b| / |a or b|

is averaged over all pairs of the clients of a round; masks drawn at random inside the
same global mask, each keeping a share q of it, would have ``q / (2 - q)``. Under
FedSparsify-Local the masks are those that clients send; under FedSparsify-Global those
they would have sent, had they pruned their trained models to the round's target.

    python -m experiments.studies.mask_agreement [--rounds 200]

Expected: 4 runs of 200 rounds (FashionMNIST, 100 clients at 10 %, 95 %, seed 0), five
minutes on 2 free cores; a finished run is not run again.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from rich.console import Console

from experiments.lib import figures, markdown, provenance
from experiments.lib.geometry import jaccard
from experiments.lib.panels import PARTITIONS
from experiments.lib.reporting import Report
from experiments.lib.results import RESULTS, path_of, study_lines
from fedsparsify_jax import masks, pruning, schedules
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine import engine
from fedsparsify_jax.method import (
    Context,
    Local,
    Method,
    ServerTransform,
    Upload,
    Uploader,
    Uploads,
    no_state,
)
from fedsparsify_jax.metrics.evaluation import evaluate
from fedsparsify_jax.report.charts import Series, thinned
from fedsparsify_jax.runner import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.programs.federation import (
    Federation,
    Keys,
    assemble,
    round_key,
)
from fedsparsify_jax.types import FederatedAlgorithm, Masks, Schedule

NAME = "mask_agreement"
METHODS = {"local": "FedSparsify-Local", "global": "FedSparsify-Global"}


def _prune(local: Local, context: Context) -> Masks:
    scores = pruning.magnitude(local.variables)
    return pruning.prune(scores, context.sparsity, within=local.masks)


def _no_agreement(variables: Any, masks: Masks) -> jax.Array:
    return jnp.float32(0.0)


def local_method(schedule: Schedule) -> Method:
    """FedSparsify-Local whose server state is the agreement of the latest round."""

    def client_prune(key: Any, local: Local, context: Context, client: Any) -> Masks:
        return _prune(local, context)

    def observe(
        key: Any, variables: Any, voted: Masks, uploads: Uploads, context: Any
    ) -> Any:
        return variables, voted, jaccard(uploads.masks)

    return Method(
        schedule=schedule,
        client_prune=client_prune,
        aggregate=aggregate("mean", "authors")._replace(stacks=True),
        server=ServerTransform(_no_agreement, observe),
    )


def global_method(schedule: Schedule) -> Method:
    """FedSparsify-Global whose server state is how far clients would have agreed."""

    def send(key: Any, local: Local, context: Context, client: Any) -> Any:
        sent = Upload(local.variables, local.masks, _prune(local, context))
        return sent, client.state

    def purge(
        key: Any, variables: Any, old: Masks, uploads: Uploads, context: Context
    ) -> Any:
        kept = _prune(Local(variables, old, ()), context)
        return masks.apply(kept, variables), kept, jaccard(uploads.extra)

    return Method(
        schedule=schedule,
        upload=Uploader(no_state, send),
        aggregate=aggregate("mean")._replace(stacks=True),
        server=ServerTransform(_no_agreement, purge),
    )


def algorithm(config: TrainConfig, federation: Federation) -> FederatedAlgorithm:
    """The observed algorithm that a resolved configuration asks for."""
    assert config.rounds is not None
    schedule = schedules.polynomial(config.final_sparsity, end=config.rounds)
    is_local = config.algorithm == "fedsparsify-local"
    method = (local_method if is_local else global_method)(schedule)
    return engine(
        federation.model.apply,
        method,
        learning_rate=config.learning_rate or 0.0,
        num_clients=config.num_clients,
        local_epochs=config.local_epochs,
        batch_size=config.batch_size or 1,
        participation=config.participation,
    )


def observe(config: TrainConfig) -> dict[str, Any]:
    """Runs a federation; returns its agreement, round by round, as a line."""
    federation = assemble(config)
    observed = algorithm(config, federation)
    keys, clients = Keys.from_seed(config.seed), federation.clients
    state = observed.init(keys.state, federation.model.init(keys.model))
    step = jax.jit(observed.step, donate_argnums=1)
    agreed, achieved, target = [], [], []
    start = time.perf_counter()
    for completed in range(config.rounds or 0):
        key = round_key(keys.rounds, jnp.int32(completed))
        state, info = step(key, state, clients)
        agreed.append(round(float(state.server), 4))
        achieved.append(round(float(info.sparsity), 4))
        target.append(round(float(info.target_sparsity), 4))
    seen = evaluate(
        federation.model.apply,
        federation.task.loss_fn,
        state.variables,
        federation.dataset.test,
    )
    return {
        "method": config.algorithm.removeprefix("fedsparsify-"),
        "partition": config.partition,
        "rounds": config.rounds,
        "final_sparsity": config.final_sparsity,
        "seed": config.seed,
        "commit": provenance.commit(),
        "dirty": provenance.dirty(),
        "machine": provenance.machine(),
        "seconds": round(time.perf_counter() - start, 1),
        "accuracy": round(float(seen.metric), 4),
        "jaccard": agreed,
        "sparsity": achieved,
        "target": target,
    }


def by_chance(line: dict[str, Any]) -> list[float]:
    """The index of random masks of the same sizes inside the same global masks."""
    before = [0.0, *line["sparsity"][:-1]]
    index = []
    for target, had in zip(line["target"], before, strict=True):
        share = min(1.0, (1 - target) / (1 - had))
        index.append(share / (2 - share))
    return index


def read(preset: str = "paper", root: Path = RESULTS) -> list[dict[str, Any]]:
    """Returns the lines that there are."""
    return study_lines(NAME, preset, root)


def report(preset: str = "paper", root: Path = RESULTS) -> Report:
    """The index in some rounds, and a figure of all."""
    content, lines = Report(), read(preset, root)
    rows = []
    for line in lines:
        total = line["rounds"]
        marks = [max(1, total * share // 10) for share in (1, 5, 8, 10)]
        chance = by_chance(line)
        cells = [f"{line['jaccard'][t - 1]:.3f} ({chance[t - 1]:.3f})" for t in marks]
        where = PARTITIONS[line["partition"]]
        rows.append([f"{METHODS[line['method']]}, {where}", *cells])
    head = ["masks of", "10 % of the rounds", "50 %", "80 %", "all"]
    text = markdown.table(head, rows) if rows else "Not measured yet."
    content.add("jaccard", "Jaccard of clients' masks (by chance)", text)
    if lines:
        content.figures["jaccard"] = _figure(lines)
    return content


def _figure(lines: Sequence[dict[str, Any]]) -> str:
    panels = []
    for partition in dict.fromkeys(line["partition"] for line in lines):
        series = []
        for line in [line for line in lines if line["partition"] == partition]:
            label, tone = METHODS[line["method"]], list(METHODS).index(line["method"])
            curves = {label: line["jaccard"], f"{label}, by chance": by_chance(line)}
            for n, (name, curve) in enumerate(curves.items()):
                # In round 1 nothing is pruned.
                points = [(float(t), y) for t, y in enumerate(curve, 1) if t > 1]
                every = Series(name, tone, points, dashed=n == 1)
                series.append(thinned(every, 2 * figures.POINTS))
        panels.append((PARTITIONS[partition], series))
    return figures.charts(panels, ("round", "count"), ("Jaccard index", "number"))


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
    lines = read(options.preset, options.results)
    done = {(line["method"], line["partition"]) for line in lines}
    for partition in ("iid", "label-shards"):
        for method in METHODS:
            if (method, partition) in done:
                continue
            config = TrainConfig(
                dataset="fashion_mnist",
                algorithm=f"fedsparsify-{method}",
                partition=partition,
                num_clients=100,
                participation=0.1,
                rounds=options.rounds,
                final_sparsity=0.95,
            )
            line = observe(resolve(config))
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line, separators=(",", ":")) + "\n")
            console.print(
                f"{method}, {partition}: accuracy {line['accuracy']}, "
                f"Jaccard {line['jaccard'][-1]} in the last round, {line['seconds']} s"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
