"""The run directory: who may use it, what is in it, what a crash leaves."""

import dataclasses
import json
from pathlib import Path

import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner import run_directory
from fedsparsify_jax.runner.checks import resolve
from fedsparsify_jax.runner.config import TrainConfig
from fedsparsify_jax.runner.run_directory import RunDirectory, default_path

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


def test_rewind_keeps_what_the_checkpoint_has_seen(tmp_path):
    directory = with_rounds(tmp_path, 1, 2, 3, 4)
    assert [r["round"] for r in directory.rewind(3)] == [1, 2, 3]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["round"] for line in lines] == [1, 2, 3]
    directory.append({"round": 4})
    assert [r["round"] for r in directory.rewind(4)] == [1, 2, 3, 4]
    assert directory.rewind(0) == []
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_rewind_of_a_new_run_starts_an_empty_file(tmp_path):
    assert claimed(tmp_path).rewind(0) == []
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "torn", ['{"round": 3, "lo', '{"round": 3}garbage', "\0\0\0", "3", "[1]"]
)
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    directory = with_rounds(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [r["round"] for r in directory.rewind(2)] == [1, 2]
    directory.append({"round": 3})
    assert [r["round"] for r in directory.rewind(3)] == [1, 2, 3]


def test_bytes_that_are_no_text_are_a_torn_line_too(tmp_path):
    directory = with_rounds(tmp_path, 1, 2)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"round": \xff\xfe')
    assert [r["round"] for r in directory.rewind(2)] == [1, 2]


@pytest.mark.parametrize("rounds", [(), (1, 2), (1, 2, 4), (2, 3, 4), (1, 1, 2)])
def test_missing_rounds_are_reported(tmp_path, rounds):
    directory = with_rounds(tmp_path, *rounds)
    with pytest.raises(InputError, match=r"of the 3 rounds .* start anew"):
        directory.rewind(3)


def test_no_partial_files_are_left(tmp_path):
    directory = with_rounds(tmp_path, 1)
    directory.rewind(1)
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
