"""The run directory: who may use it, what is in it, what a crash leaves."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.storage import checkpoint_files, run_directory
from fedsparsify_jax.runner.storage.run_directory import RunDirectory, default_path

CONFIG = resolve(TrainConfig())


def claimed(path, config=CONFIG):
    directory = RunDirectory(path, config)
    assert directory.check(resume=False) is False
    directory.claim()
    return directory


def with_rounds(path, *rounds):
    directory = claimed(path)
    for t in rounds:
        directory.append({"round": t, "loss": t / 2})
    return directory


@pytest.mark.parametrize("resume", [False, True])
def test_nothing_is_written_before_the_claim(tmp_path, resume):
    path = tmp_path / "deep" / "run"
    assert RunDirectory(path, CONFIG).check(resume=resume) is False
    assert list(tmp_path.iterdir()) == []


def test_the_claim_records_options_and_versions(tmp_path):
    claimed(tmp_path / "deep" / "run")
    config = json.loads((tmp_path / "deep" / "run" / "config.json").read_text())
    assert config["options"]["rounds"] == 50
    assert set(config["versions"]) >= {"fedsparsify_jax", "jax", "flax", "optax"}


def test_an_empty_directory_may_be_used(tmp_path):
    claimed(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_a_used_directory_is_refused_unless_resumed(tmp_path):
    claimed(tmp_path)
    with pytest.raises(
        InputError, match=r"not empty: add --resume .*another directory"
    ):
        RunDirectory(tmp_path, CONFIG).check(resume=False)
    assert RunDirectory(tmp_path, CONFIG).check(resume=True) is True


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
        RunDirectory(tmp_path, CONFIG).check(resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_start_that_was_killed_before_its_claim_counts_as_unused(tmp_path):
    # The same command line must be able to start a pre-empted job again.
    (tmp_path / "config.json.partial").write_text('{"opti')
    assert RunDirectory(tmp_path, CONFIG).check(resume=True) is False


def test_changed_options_are_listed(tmp_path):
    claimed(tmp_path)
    other = dataclasses.replace(CONFIG, seed=5, batch_size=64)
    with pytest.raises(InputError) as caught:
        RunDirectory(tmp_path, other).check(resume=True)
    assert "--batch-size 32 -> 64; --seed 0 -> 5" in str(caught.value)


PRINTS = {"data set": "d", "partition": "p", "random keys": "k"}


def with_checkpoints(path, *rounds, config=CONFIG):
    """A run with its checkpoints, of which the arrays are a file of text."""
    directory = RunDirectory(path, config)
    directory.begin(PRINTS, resume=True, rounds=config.rounds)
    for t in range(1, max(rounds) + 1):
        directory.append(record(t))
    for t in rounds:
        place = checkpoint_files.place_of(directory.checkpoints, t)
        (place / "state").mkdir(parents=True)
        (place / "state" / "arrays").write_text(f"those of round {t}")
        records = [record(n) for n in range(1, t + 1)]
        checkpoint_files.finish(
            directory.checkpoints, t, directory.content, records, None
        )
    return directory


def resumed(path, **changes):
    config = dataclasses.replace(CONFIG, resume=True, **changes)
    directory = RunDirectory(path, config)
    with directory.held():
        found = directory.begin(PRINTS, resume=True, rounds=config.rounds)
    return found and found.round, directory.notes


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
    "changes",
    [{"model": "cnn"}, {"seed": 1}, {"num_clients": 9}, {"algorithm": "fedavg"}],
)
def test_changes_that_cannot_work_are_refused_even_on_request(tmp_path, changes):
    with_checkpoints(tmp_path, 10)
    name = flag(next(iter(changes)))
    with pytest.raises(InputError, match=rf"cannot go on with {name} .* not even"):
        resumed(tmp_path, allow_changes=True, rounds=60, **changes)


def test_a_run_cannot_end_before_where_it_is(tmp_path):
    with_checkpoints(tmp_path, 10, 20)
    with pytest.raises(InputError, match=r"--rounds is 15: .* has completed 20"):
        resumed(tmp_path, rounds=15, allow_changes=True)


@pytest.mark.parametrize("name", PRINTS)
def test_other_data_are_refused_by_name(tmp_path, name):
    with_checkpoints(tmp_path, 10)
    directory = RunDirectory(tmp_path, CONFIG)
    directory.check(resume=True)
    directory.refuse_other_data(PRINTS)
    with pytest.raises(InputError, match=rf"^the {name} of the run .* changed"):
        directory.refuse_other_data(PRINTS | {name: "other"})


def test_other_versions_are_noted(tmp_path, monkeypatch):
    with_checkpoints(tmp_path, 10)
    other = run_directory.versions() | {"jax": "99.0"}
    monkeypatch.setattr(run_directory, "versions", lambda: other)
    completed, notes = resumed(tmp_path)
    assert completed == 10
    assert re.search(r"other versions than so far: jax \S+ -> 99.0;", notes[0])


def test_options_of_later_versions_count_as_their_defaults(tmp_path):
    with_checkpoints(tmp_path, 10)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["options"]["participation"], content["digest"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert resumed(tmp_path) == (10, [])


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


def test_two_starts_at_once_get_one_run(tmp_path):
    first, second = RunDirectory(tmp_path, CONFIG), RunDirectory(tmp_path, CONFIG)
    assert first.check(resume=False) is second.check(resume=False) is False
    with first.held():
        first.begin(PRINTS, resume=False, rounds=50)
        for refused in (second.held().__enter__, lambda: second.check(resume=True)):
            with pytest.raises(InputError, match=r"in use by process \d+ on \S+: wait"):
                refused()
    assert not (tmp_path / ".lock").exists()
    with second.held(), pytest.raises(InputError, match="not empty: add --resume"):
        second.begin(PRINTS, resume=False, rounds=50)


def test_options_that_change_no_result_may_differ(tmp_path):
    claimed(tmp_path)
    other = dataclasses.replace(
        CONFIG,
        out=Path("elsewhere"),
        resume=True,
        checkpoint_every=3,
        show_partition=True,
        verbose=True,
    )
    assert RunDirectory(tmp_path, other).check(resume=True) is True


def test_a_file_where_the_directory_should_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file is a file: name a directory"):
        RunDirectory(tmp_path / "file", CONFIG).check(resume=False)
    with pytest.raises(InputError, match=r"cannot write --out .*file is a file"):
        RunDirectory(tmp_path / "file" / "run", CONFIG).check(resume=False)


def test_a_directory_that_cannot_be_written_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory.os, "access", lambda *_: False)
    with pytest.raises(InputError, match="no permission to write in"):
        RunDirectory(tmp_path / "run", CONFIG).check(resume=False)


def test_a_claim_that_fails_is_bad_input(tmp_path):
    directory = RunDirectory(tmp_path / "run", CONFIG)
    directory.check(resume=False)
    (tmp_path / "run").write_text("someone was faster")
    with pytest.raises(InputError, match=r"cannot write --out .*File exists"):
        directory.claim()


def record(t):
    return {"round": t, "loss": t / 2}


def metrics(path):
    lines = (path / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_rewind_keeps_what_the_checkpoint_has_seen(tmp_path):
    directory = with_rounds(tmp_path, 1, 2, 3, 4)
    assert directory.rewind([record(t) for t in (1, 2, 3)]) is False
    assert metrics(tmp_path) == [record(t) for t in (1, 2, 3)]
    directory.append(record(4))
    assert directory.rewind([record(t) for t in (1, 2, 3, 4)]) is False
    assert directory.rewind([]) is False
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "torn", [b'{"round": 3, "lo', b'{"round": \xff\xfe', b"\0\0\0", b"3", b"[1]"]
)
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    directory = with_rounds(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(torn)
    assert directory.rewind([record(1), record(2)]) is False
    assert metrics(tmp_path) == [record(1), record(2)]


@pytest.mark.parametrize("rounds", [(), (1, 2), (1, 2, 4), (2, 3, 4), (1, 1, 2)])
def test_lost_and_doubled_rounds_come_back_from_the_checkpoint(tmp_path, rounds):
    directory = with_rounds(tmp_path, *rounds)
    assert directory.rewind([record(t) for t in (1, 2, 3)]) is True
    assert metrics(tmp_path) == [record(t) for t in (1, 2, 3)]


def test_no_partial_files_are_left(tmp_path):
    directory = with_rounds(tmp_path, 1)
    directory.rewind([{"round": 1}])
    directory.write_summary({"rounds": 1})
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json", "metrics.jsonl", "summary.json"}
    assert json.loads((tmp_path / "summary.json").read_text()) == {"rounds": 1}


def test_default_paths_are_new_and_say_what_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_directory.time, "strftime", lambda _: "20260102-030405")
    first = default_path(CONFIG)
    assert first == Path("runs/20260102-030405-digits-fedsparsify-global")
    first.mkdir(parents=True)
    second = default_path(CONFIG)
    assert second.name == f"{first.name}-2"
