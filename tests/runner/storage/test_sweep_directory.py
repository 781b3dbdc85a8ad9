"""Plans of a sweep: which directory a trial has, and which trials are finished."""

from pathlib import Path

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.listing import to_json
from fedsparsify_jax.runner.options.sweep_grid import trials
from fedsparsify_jax.runner.storage import sweep_directory
from fedsparsify_jax.runner.storage.checkpoint_files import Inventory
from fedsparsify_jax.runner.storage.resume import Existing

FIRST, SECOND = TRIALS = trials({"seed": [0, 1]})


def run(name, trial=None, **content):
    """The content of ``out/name``: the run of a trial, or nothing."""
    recorded = trial and {"options": to_json(trial.config)}
    path, whole = Path("out", name), {"empty": trial is None, "recorded": recorded}
    return Existing(path, Inventory(path / "checkpoints"), **(whole | content))


def plan(*runs, obstacle=""):
    names = {trial.name: run(trial.name) for trial in TRIALS}
    names |= {existing.path.name: existing for existing in runs}
    return sweep_directory.plan(sweep_directory.Existing(obstacle, names), TRIALS, {})


def test_trials_of_a_new_sweep_have_directories_by_name():
    runs = {"seed=0": Path("out/seed=0"), "seed=1": Path("out/seed=1")}
    assert plan() == sweep_directory.Plan(runs, finished={})


def test_a_trial_is_recognized_by_its_options_and_finished_by_its_summary():
    planned = plan(run("renamed", SECOND, summary={"rounds": 9}))
    assert planned.runs == {"seed=0": Path("out/seed=0"), "seed=1": Path("out/renamed")}
    assert planned.finished == {"seed=1": {"rounds": 9}}


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (run("seed=0", SECOND), "had other options: --seed 1 -> 0"),
        (run("seed=0", empty=False), "holds no run to resume"),
        (run("seed=0", obstacle="--out out/seed=0 is a file"), "is a file"),
    ],
)
def test_another_run_in_the_place_of_a_trial_is_refused(there, message):
    with pytest.raises(InputError, match=message):
        plan(there)


def test_a_directory_without_a_sweep_is_refused():
    with pytest.raises(InputError, match="holds no sweep"):
        plan(obstacle="--out out is not empty and holds no sweep")
