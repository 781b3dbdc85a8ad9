"""The run directory: who may use it, what is in it, what a crash leaves."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.storage import checkpoint_files, run_directory
from fedsparsify_jax.runner.storage.lock import locked, refuse_if_locked
from fedsparsify_jax.runner.storage.run_directory import RunDirectory, default_path

CONFIG = resolve(TrainConfig())
RESUMED = dataclasses.replace(CONFIG, resume=True)
PRINTS = {"data set": "d", "partition": "p", "random keys": "k"}


def record(t):
    return {"round": t, "loss": t / 2}


def records(completed):
    return [record(t) for t in range(1, completed + 1)]


def metrics(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def started(path, config=CONFIG, fingerprints=PRINTS):
    """Plans and carries out a start; returns the plan and the directory."""
    directory = RunDirectory(path)
    plan = run_directory.plan(path, config, fingerprints)
    directory.carry_out(plan)
    return plan, directory


def with_checkpoints(path, *rounds):
    """A run with its checkpoints, of which the arrays are a file of text."""
    plan, directory = started(path)
    for row in records(max(rounds)):
        directory.append(row)
    for t in rounds:
        place = checkpoint_files.place_of(directory.checkpoints, t)
        (place / "state").mkdir(parents=True)
        (place / "state" / "arrays").write_text(f"those of round {t}")
        checkpoint_files.finish(
            directory.checkpoints, t, plan.content, records(t), None
        )
    return directory


def resumed(path, **changes):
    plan, _ = started(path, dataclasses.replace(RESUMED, **changes))
    return plan.completed, list(plan.warnings)


@pytest.mark.parametrize("config", [CONFIG, RESUMED])
def test_reading_and_planning_write_nothing(tmp_path, config):
    plan = run_directory.plan(tmp_path / "deep" / "run", config)
    assert plan.completed == 0 and plan.records == ()
    assert list(tmp_path.iterdir()) == []


def test_a_start_records_options_and_versions(tmp_path):
    started(tmp_path / "deep" / "run")
    config = json.loads((tmp_path / "deep" / "run" / "config.json").read_text())
    assert config["options"]["rounds"] == 50
    assert set(config["versions"]) >= {"fedsparsify_jax", "jax", "flax", "optax"}
    assert config["fingerprints"] == PRINTS and config["changes"] == []


@pytest.mark.parametrize(
    "contents",
    [None, "", "{", "[]", '{"options": 3}', '"options"', '{"other": {}}', b"\xff\xfe"],
)
def test_a_foreign_directory_is_refused_and_left_alone(tmp_path, contents):
    (tmp_path / "thesis.tex").write_text("precious")
    if contents is not None:
        raw = contents if isinstance(contents, bytes) else contents.encode()
        (tmp_path / "config.json").write_bytes(raw)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match="holds no run to resume"):
        started(tmp_path, RESUMED)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_start_that_was_killed_before_it_wrote_counts_as_unused(tmp_path):
    # The same command line must be able to start a pre-empted job again.
    (tmp_path / "config.json.partial").write_text('{"opti')
    (tmp_path / ".lock").write_text("process 7")
    assert run_directory.read(tmp_path).empty
    assert run_directory.plan(tmp_path, CONFIG).completed == 0


def test_safe_changes_are_allowed_on_request_and_recorded(tmp_path):
    with_checkpoints(tmp_path, 10, 20)
    with pytest.raises(InputError, match=r"--rounds 50 -> 60; .*add --allow-changes"):
        resumed(tmp_path, rounds=60)
    completed, notes = resumed(tmp_path, rounds=60, allow_changes=True)
    assert completed == 20 and "changes allowed: --rounds 50 -> 60" in notes[0]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["options"]["rounds"] == 60
    assert config["changes"] == [{"after_round": 20, "options": {"rounds": [50, 60]}}]
    # What is recorded stays when the run goes on.
    assert resumed(tmp_path, rounds=60) == (20, [])
    assert json.loads((tmp_path / "config.json").read_text())["changes"]


@pytest.mark.parametrize(
    "damage", [b"", b"{", None, ('"rounds": 50', '"rounds": 58'), ('"run"', '"rum"')]
)
def test_a_damaged_config_comes_back_from_the_checkpoint(tmp_path, damage):
    with_checkpoints(tmp_path, 10)
    path = tmp_path / "config.json"
    before = json.loads(path.read_text())
    if isinstance(damage, tuple):
        assert damage[0] in path.read_text()
        damage = path.read_text().replace(*damage).encode()
    path.unlink() if damage is None else path.write_bytes(damage)
    note = "config.json was damaged: taken from the checkpoint of round 10"
    assert resumed(tmp_path) == (10, [note])
    after = json.loads(path.read_text())
    assert {**after, "options": 0, "digest": 0} == {**before, "options": 0, "digest": 0}


def test_the_runner_falls_back_to_the_newest_good_checkpoint(tmp_path):
    directory = with_checkpoints(tmp_path, 10, 20)
    (directory.checkpoints / "20" / "state" / "arrays").write_text("those of")
    (directory.checkpoints / "saving-30").mkdir()
    completed, notes = resumed(tmp_path)
    assert completed == 10 and len(metrics(tmp_path)) == 10
    said = "round 20 is damaged (state/arrays has 8 of 17 bytes): kept as damaged-20"
    assert said in notes[0]
    assert {path.name for path in directory.checkpoints.iterdir()} == {
        "10",
        "damaged-20",
    }
    # Later the good one breaks too: no silent start from the beginning.
    shutil.rmtree(directory.checkpoints / "10")
    with pytest.raises(InputError, match=r"no checkpoint .* is whole .*set aside"):
        resumed(tmp_path)


def test_without_a_good_checkpoint_nothing_is_touched(tmp_path):
    directory = with_checkpoints(tmp_path, 10, 20)
    for path in directory.checkpoints.rglob("arrays"):
        path.write_text("other")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"round 20: state/arrays .*; round 10: state"):
        resumed(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_checkpoint_of_another_run_is_not_taken(tmp_path):
    with_checkpoints(tmp_path / "one", 10, 20)
    with_checkpoints(tmp_path / "two", 10)
    there = tmp_path / "two" / "checkpoints" / "20"
    shutil.copytree(tmp_path / "one" / "checkpoints" / "20", there)
    completed, notes = resumed(tmp_path / "two")
    assert completed == 10 and "it is of another run" in notes[0]


def test_of_two_starts_at_once_one_is_refused(tmp_path):
    run_directory.plan(tmp_path, CONFIG)
    with locked(tmp_path):
        started(tmp_path)
        for refused in (refuse_if_locked, lambda path: locked(path).__enter__()):
            with pytest.raises(InputError, match=r"in use by process \d+ on \S+: wait"):
                refused(tmp_path)
    assert not (tmp_path / ".lock").exists()
    with locked(tmp_path), pytest.raises(InputError, match="not empty: add --resume"):
        run_directory.plan(tmp_path, CONFIG)


def test_a_file_where_the_directory_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file is a file: name a directory"):
        run_directory.plan(tmp_path / "file", CONFIG)
    with pytest.raises(InputError, match=r"cannot write --out .*file is a file"):
        run_directory.plan(tmp_path / "file" / "run", CONFIG)


def test_a_directory_that_cannot_be_written_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no permission to write in"):
        run_directory.plan(tmp_path / "run", CONFIG)


def test_a_directory_that_cannot_be_made_is_bad_input(tmp_path):
    plan = run_directory.plan(tmp_path / "run", CONFIG)
    (tmp_path / "run").write_text("someone was faster")
    with pytest.raises(InputError, match=r"cannot write --out .*File exists"):
        RunDirectory(tmp_path / "run").carry_out(plan)


@pytest.mark.parametrize("rounds", [(), (1, 2), (1, 2, 3, 4), (2, 4), (1, 1, 2)])
def test_metrics_become_those_of_the_checkpoint(tmp_path, rounds):
    directory = with_checkpoints(tmp_path, 3)
    (tmp_path / "metrics.jsonl").unlink()
    for t in rounds:
        directory.append(record(t))
    notes = ["metrics.jsonl was damaged: taken from the checkpoint"]
    assert resumed(tmp_path) == (3, [] if len(rounds) == 4 else notes)
    assert metrics(tmp_path) == records(3)


def test_an_empty_directory_is_used_and_no_partial_files_are_left(tmp_path):
    _, directory = started(tmp_path)
    directory.write_summary({"rounds": 1})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "summary.json"}
    assert run_directory.read(tmp_path).summary == {"rounds": 1}


def test_default_paths_are_new_and_say_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_directory.time, "strftime", lambda _: "20260102-030405")
    first = default_path(CONFIG)
    assert first == Path("runs/20260102-030405-digits-fedsparsify-global")
    first.mkdir(parents=True)
    second = default_path(CONFIG)
    assert second.name == f"{first.name}-2"
