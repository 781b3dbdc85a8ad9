"""The experiments are no part of the installed package: they are found from the root.

Last on the path, so that ``fedsparsify_jax`` is still the one that was installed.
"""

import dataclasses
import json
import random
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from experiments.lib.results import path_of  # noqa: E402
from fedsparsify_jax.runner import TrainConfig  # noqa: E402
from fedsparsify_jax.runner.options.resolve import resolve  # noqa: E402

ROUNDS, PARAMETERS = 12, 1000


def make_line(point: dict, accuracy: float) -> dict:
    """A line as `collecting.line` writes it, of a run that never was."""
    options = dataclasses.asdict(resolve(TrainConfig(**point)))
    options = {field: value for field, value in options.items() if value is not None}
    sparsity = options["final_sparsity"]
    kept = PARAMETERS - round(sparsity * PARAMETERS)
    metric = "mae" if options["dataset"] == "brain_age" else "accuracy"
    return {
        "options": options,
        "seed": options["seed"],
        "commit": "abcdef0",
        "dirty": False,
        "machine": None,
        "versions": {},
        "seconds": 36.0,
        "metric": metric,
        "final": accuracy,
        "last_5": accuracy,
        "best": accuracy,
        "parameters": PARAMETERS,
        "kept": kept,
        "sparsity": sparsity,
        "target_sparsity": sparsity,
        "bytes": 4000,
        "bytes_up": 2000,
        "bytes_with_masks": 5000,
        "bytes_dense": 8000,
        "curves": {
            metric: [None, *[accuracy] * (ROUNDS - 1)],
            "every": 5,
            "sparsity": [0.0, sparsity / 2, sparsity],
            "bytes": [1000, 2000, 4000],
            "layers_first": {"params/Dense_0/kernel": 9},
            "layers": {"params/Dense_0/kernel": [9, 8, 7]},
        },
    }


@pytest.fixture
def made_up(tmp_path):
    """Writes lines for a table, all of them or a share; returns the directory."""

    def write(table, preset, share=1.0):
        draw = random.Random(0)
        rows = [
            make_line(point, draw.random())
            for point in table.cells(preset).values()
            if draw.random() <= share
        ]
        path = path_of(table.name, preset, tmp_path)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return write
