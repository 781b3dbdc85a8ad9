"""Loggers: every round once, whatever happens to the run or to them."""

import csv
import io
import struct
import sys
import types

import pytest
from rich.console import Console

from fedsparsify_jax.cli import main
from fedsparsify_jax.runner.display import loggers

RECORDS = [
    {"round": n, "test_accuracy": n / 8 if n % 2 else None, "kept": {"a": 9 - n}}
    for n in range(1, 6)
]


def play(names, path, before, after):
    """A run that has played some rounds before; returns what was warned of."""
    path.mkdir(exist_ok=True)
    said = io.StringIO()
    with loggers.logging(names, path, {"seed": 0}, before, Console(file=said)) as log:
        for record in after:
            log(record)
    return said.getvalue()


def events(folder):
    """Tags, steps and values of all event files."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        content, at = path.read_bytes(), 0
        while at < len(content):
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            found += [
                (value.tag, event.step, value.simple_value)
                for value in event.summary.value
            ]
            at += 16 + length
    return found


@pytest.mark.parametrize("before", [0, 2, 3])
def test_csv_has_every_round_once(before, tmp_path):
    play(["csv"], tmp_path, [], RECORDS[:3])  # and then it was killed
    assert play(["csv"], tmp_path, RECORDS[:before], RECORDS[before:]) == ""
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {
            "round": str(r["round"]),
            "test_accuracy": ""
            if r["test_accuracy"] is None
            else str(r["test_accuracy"]),
            "kept/a": str(r["kept"]["a"]),
        }
        for r in RECORDS
    ]


@pytest.mark.parametrize("before", [0, 2])
def test_tensorboard_has_every_round_once(before, tmp_path):
    play(["tensorboard"], tmp_path, [], RECORDS[:3])
    (first,) = (tmp_path / "tensorboard").iterdir()
    first.rename(first.with_name("events.out.tfevents.1.earlier"))
    play(["tensorboard"], tmp_path, RECORDS[:before], RECORDS[before:])
    found = events(tmp_path / "tensorboard")
    assert [e for e in found if e[0] == "kept/a"] == [
        ("kept/a", n, 9 - n) for n in range(1, 6)
    ]
    assert [e for e in found if e[0] == "test_accuracy"] == [
        ("test_accuracy", n, n / 8) for n in (1, 3, 5)
    ]


@pytest.fixture
def wandb(monkeypatch):
    """Stands in for the package: remembers what it is told."""
    told = types.SimpleNamespace(starts=[], logs=[], ends=0)

    def init(**options):
        told.starts.append(options)

        def finish():
            told.ends += 1

        return types.SimpleNamespace(
            log=lambda values, step: told.logs.append((step, values)), finish=finish
        )

    module = types.ModuleType("wandb")
    module.init, module.Settings = init, lambda **options: options
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_wandb_goes_on_under_the_same_name(wandb, tmp_path):
    play(["wandb"], tmp_path, [], RECORDS[:3])
    first, second = tmp_path / "wandb", "offline-run-20260101_000000-"
    name = wandb.starts[0]["id"]
    (first / f"{second}{name}").mkdir()
    (first / f"{second}other").mkdir()
    play(["wandb"], tmp_path, RECORDS[:2], RECORDS[2:])
    assert [start["id"] for start in wandb.starts] == [name, name]
    assert {start["resume"] for start in wandb.starts} == {"allow"}
    # What is written anew takes the place of the old; of no other run.
    assert [path.name for path in first.glob("offline*")] == [f"{second}other"]
    assert [step for step, _ in wandb.logs] == [1, 2, 3, 1, 2, 3, 4, 5]
    assert wandb.logs[1][1] == {"round": 2, "kept/a": 7} and wandb.ends == 2


def test_a_logger_that_fails_is_let_go(wandb, tmp_path):
    (tmp_path / "metrics.csv").mkdir()  # where the file should be
    said = play(["csv", "wandb"], tmp_path, [], RECORDS)
    assert said.count("warning: the logger csv failed and is off") == 1
    assert "metrics.jsonl has every round" in said
    assert len(wandb.logs) == 5  # the other one goes on


def test_loggers_are_checked_before_anything_is_done(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.chdir(tmp_path)
    for name, message in {
        "tensorboard": "tensorboard needs tensorboardX: pip install 'fedsparsify_jax[t",
        "wandb": "--logger wandb needs wandb: pip install 'fedsparsify_jax[wandb]'",
        "tensorbord": "unknown logger 'tensorbord': did you mean 'tensorboard'?",
    }.items():
        assert main(["train", "--logger", name]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
