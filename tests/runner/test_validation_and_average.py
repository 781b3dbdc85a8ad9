"""``--validation-fraction`` and ``--server-ema`` in a run: files, traces, refusals."""

import contextlib
import io
import json

import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.cli import main
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.sweep_grid import program_groups, trials
from fedsparsify_jax.runner.storage.model_files import load_model

OPTIONS = ["train", "--rounds", "2", "--num-clients", "4", "--local-epochs", "1"]
OPTIONS += ["--compilation-cache", "off", "--evaluate-every", "2", "--verbose"]
NEW = ["--validation-fraction", "0.2", "--server-ema", "0.5"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with both options: its directory, its records, what it printed."""
    out = tmp_path_factory.mktemp("held") / "run"
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        assert main([*OPTIONS, *NEW, "--out", str(out)]) == 0
    lines = (out / "metrics.jsonl").read_text().splitlines()
    return out, [json.loads(line) for line in lines], shown.getvalue()


def test_both_sets_are_evaluated_in_the_same_rounds(run):
    out, records, _ = run
    fields = [f"{s}_{v}" for s in ("test", "validation") for v in ("accuracy", "loss")]
    assert list(records[0])[1:5] == fields
    assert all(records[0][field] is None for field in fields)
    summary = json.loads((out / "summary.json").read_text())
    for record in records[1:]:
        assert all(record[field] > 0 for field in fields)
        # Accuracies are shares of the examples of each.
        for field, size in (("test_accuracy", 360), ("validation_accuracy", 287)):
            hits = record[field] * size
            assert hits == pytest.approx(round(hits), abs=1e-3)
    assert {field: summary[field] for field in fields} == {
        field: records[-1][field] for field in fields
    }
    seen = [record["validation_accuracy"] for record in records[1:]]
    assert summary["best_validation_accuracy"] == max(seen)
    assert summary["last_10_mean_validation_accuracy"] == pytest.approx(np.mean(seen))


def test_the_average_is_what_is_saved_and_as_sparse(run):
    out, records, _ = run
    variables, description = load_model(out / "model")
    kept = records[-1]["kept"]
    for layer, leaves in variables["params"].items():
        for name, leaf in leaves.items():
            assert np.count_nonzero(leaf) <= kept[f"params/{layer}/{name}"]
    assert description["test_accuracy"] == records[-1]["test_accuracy"]


def test_one_trace_and_fewer_examples(run):
    shown = run[2]
    assert "round step: 1 trace, 1 compilation" in shown
    assert "4 clients of 287 to 288 examples" in shown
    assert "\nvalidation accuracy  " in shown


@pytest.mark.parametrize(
    ("field", "value"),
    [("validation_fraction", 1.0), ("validation_fraction", -0.1), ("server_ema", 1.0)],
)
def test_shares_and_decays_outside_their_range_are_refused(field, value):
    with pytest.raises(InputError, match=f"--{field.replace('_', '-')} is {value}: "):
        resolve(TrainConfig(**{field: value}))


def test_a_store_has_no_validation_set(tmp_path):
    with pytest.raises(InputError, match="--validation-fraction does not go with"):
        resolve(TrainConfig(dataset="store", validation_fraction=0.1))


def test_seeds_of_a_sweep_hold_out_their_own():
    grid = {"seed": [0, 1], "server_ema": [0.5, 0.9], "validation_fraction": [0.1]}
    assert [len(group) for group in program_groups(trials(grid))] == [2, 2]
    assert data.hold_out(data.load("digits"), 0.1, 1).validation is not None
