"""Run directories as training writes them, made up in no time."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.resolve import resolve

SIZES = {"params/Dense_0/kernel": 800, "params/Dense_0/bias": 200}
PARTITION = {"clients": 2, "sizes": [5, 3], "counts": [[5, 0], [1, 2]]}


def records(rounds, final_sparsity=0.9, shift=0.0, metric="accuracy"):
    """So many rounds, of which accuracy and sparsity are known in advance."""
    for n in range(1, rounds + 1):
        sparsity = final_sparsity * (n - 1) / max(1, rounds - 1)
        kept = {name: round(size * (1 - sparsity)) for name, size in SIZES.items()}
        moved = 4 * sum(kept.values())
        yield {
            "round": n,
            f"test_{metric}": 0.5 + 0.4 * n / rounds + shift,
            "test_loss": 2.0 / n,
            "train_loss": 1.0 / n,
            "sparsity": sparsity,
            "target_sparsity": sparsity,
            "bytes_up": moved,
            "bytes_down": moved,
            "bytes_dense": 8000,
            "kept": kept,
            "seconds": 0.5,
        }


def write_run(path, rounds=10, *, played=None, shift=0.0, metric="accuracy", **options):
    """A run directory; with fewer rounds played than it has, an unfinished one."""
    path = Path(path)
    path.mkdir(parents=True)
    config = resolve(TrainConfig(rounds=rounds, **options))
    versions = {"jax": "0.10.2"}
    content = {"options": to_json(config), "versions": versions}
    (path / "config.json").write_text(json.dumps(content))
    (path / "partition.json").write_text(json.dumps(PARTITION))
    played = rounds if played is None else played
    sparsity = 0.0 if config.algorithm == "fedavg" else config.final_sparsity
    rows = list(records(rounds, sparsity, shift, metric))[:played]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (path / "metrics.jsonl").write_text(lines)
    if played == rounds:
        (path / "summary.json").write_text(json.dumps({"rounds": rounds}))
        (path / "model").mkdir()
        arrays = {name: np.zeros(n, np.float32) for name, n in SIZES.items()}
        save_file(arrays, path / "model" / "model.safetensors")
    return path


def write_sweep(path, algorithms=("fedavg", "one-shot"), seeds=2, **options):
    """A sweep of algorithms, three final sparsities, and seeds."""
    for a, algorithm in enumerate(algorithms):
        for sparsity in (0.9,) if algorithm == "fedavg" else (0.8, 0.9, 0.95):
            for seed in range(seeds):
                write_run(
                    path / f"{algorithm}-{sparsity}-{seed}",
                    algorithm=algorithm,
                    final_sparsity=sparsity,
                    seed=seed,
                    shift=-0.1 * a - 0.1 * sparsity + 0.02 * seed,
                    **options,
                )
    (path / "sweep.json").write_text("{}")
    return path


@pytest.fixture(scope="session", name="write_run")
def _write_run():
    return write_run


@pytest.fixture(scope="session", name="write_sweep")
def _write_sweep():
    return write_sweep


@pytest.fixture
def change():
    """Changes the text of a file."""

    def apply(path, edit):
        path.write_text(edit(path.read_text()))

    return apply
