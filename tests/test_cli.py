"""The command line in process: options, bad input, every algorithm and partition."""

import configparser
import errno
import gzip
import importlib
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from rich.console import Console

from fedsparsify_jax import cli
from fedsparsify_jax.algorithms.registry import ALGORITHMS
from fedsparsify_jax.cli import main
from fedsparsify_jax.data.sources.fashion_mnist import DEBIAN_DIR
from fedsparsify_jax.report import ReportConfig
from fedsparsify_jax.runner.audit.options import AuditConfig
from fedsparsify_jax.runner.costs import CostsConfig
from fedsparsify_jax.runner.model_commands.evaluate import EvaluateConfig
from fedsparsify_jax.runner.model_commands.export import ExportConfig
from fedsparsify_jax.runner.model_commands.inspection import InspectConfig
from fedsparsify_jax.runner.model_commands.predict import PredictConfig
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.config import NATURAL, PARTITIONS, TrainConfig
from fedsparsify_jax.runner.options.help_text import help_text
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.options.sweep_config import COMMAND_LINE
from fedsparsify_jax.runner.programs.federation import assemble

SMALL = ["train", "--rounds", "2", "--local-epochs", "1", "--num-clients", "5"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every command runs in an empty directory."""
    monkeypatch.chdir(tmp_path)


# One training a partition and an algorithm; other pairs are traced below.
# Natural clients need columns, see test_natural_clients.
DIVIDED = [name for name in PARTITIONS if name != NATURAL]
PAIRS = [(name, DIVIDED[n % len(DIVIDED)]) for n, name in enumerate(ALGORITHMS)]


@pytest.mark.parametrize(("algorithm", "partition"), PAIRS)
def test_every_algorithm_and_partition_trains(algorithm, partition, capsys):
    options = ["--algorithm", algorithm, "--partition", partition, "--out", "run"]
    assert main([*SMALL, *options, "--participation", "0.6"]) == 0
    lines = Path("run/metrics.jsonl").read_text().splitlines()
    first, last = map(json.loads, lines)
    assert (first["round"], last["round"]) == (1, 2)
    assert np.isfinite([first["train_loss"], last["train_loss"]]).all()
    if algorithm in ("fedavg", "fedsparsify-global", "fedsparsify-local"):
        assert last["target_sparsity"] == (0.0 if algorithm == "fedavg" else 0.9)
    shown = capsys.readouterr()
    assert shown.err == "" and f"{algorithm} on digits: 5 clients" in shown.out
    assert f"{partition} partition" in shown.out


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_takes_every_partition(algorithm):
    """Partitions differ in the length of the longest client alone.

    A round is traced, not compiled, with the shortest of them and the longest.
    """
    configs = [
        TrainConfig(algorithm=algorithm, partition=partition, num_clients=5)
        for partition in DIVIDED
    ]
    federations = [assemble(resolve(config)) for config in configs]
    federations.sort(key=lambda federation: federation.clients.x.shape[1])
    for federation in (federations[0], federations[-1]):
        key = jax.random.key(0)
        variables = jax.eval_shape(federation.model.init, key)
        state = jax.eval_shape(federation.algorithm.init, key, variables)
        new, info = jax.eval_shape(
            federation.algorithm.step, key, state, federation.clients
        )
        assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(
            lambda a: (a.shape, a.dtype), state
        )
        assert info.cohort.shape == (5,)


def test_the_partition_is_shown_on_demand(capsys):
    wanted = ["--show-partition", "--partition", "label-shards", "--rounds", "1"]
    assert main([*SMALL, *wanted, "--out", "run"]) == 0
    shown = capsys.readouterr().out.splitlines()
    head = next(n for n, line in enumerate(shown) if line.startswith("client"))
    rows = np.array([list(map(int, row.split())) for row in shown[head + 1 : head + 6]])
    assert ((rows[:, 1:-1] > 0).sum(axis=1) == 2).all()
    assert rows[:, -1].sum() == 1437


COMMANDS = {
    "train": schema.read(TrainConfig),
    "sweep": COMMAND_LINE,
    "costs": schema.read(CostsConfig),
    "report": schema.read(ReportConfig),
    "export": schema.read(ExportConfig),
    "inspect": schema.read(InspectConfig),
    "predict": schema.read(PredictConfig),
    "evaluate": schema.read(EvaluateConfig),
    "audit": schema.read(AuditConfig),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_all_that_the_options_say(command, capsys, monkeypatch):
    monkeypatch.setattr(cli.app, "console", Console(width=1000))
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    for option in COMMANDS[command].values():
        if schema.POSITIONAL not in option.traits:
            assert f"{flag(option.field)} " in text
        assert help_text(option) in text
        assert f" {option.group} ─" in text


def test_the_console_script_is_this_command():
    setup = configparser.ConfigParser()
    setup.read(Path(__file__).parents[1] / "setup.cfg")
    scripts = setup["options.entry_points"]["console_scripts"].split("=")
    name, target = (part.strip() for part in scripts)
    module, function = target.split(":")
    assert name == "fedsparsify"
    assert getattr(importlib.import_module(module), function) is main


def listing(directory):
    return {
        path.relative_to(directory): None if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
    }


def refused(arguments, capsys, directory):
    """The one line of an error, after checking that it is one and leaves no trace."""
    before = listing(directory)
    status = main(arguments)
    shown = capsys.readouterr()
    assert status == 2
    assert shown.out == ""
    assert shown.err.startswith("fedsparsify: error: ")
    assert shown.err.count("\n") == 1 and shown.err.endswith("\n")
    assert listing(directory) == before
    return shown.err


BAD_OPTIONS = {
    "train --dataset digit": "unknown data set 'digit': did you mean 'digits'?",
    "train --num-clients 1438": "1438 clients for 1437 examples",
    "train --final-sparsity -0.1": "--final-sparsity is -0.1: it must be at least 0",
    "train --final-sparsity=-0.1": "--final-sparsity is -0.1: it must be at least 0",
    "train --participation 0.05": "0.05 of 10 clients selects nobody: use at least 0.1",
    "train --rounds abc": "--rounds: expected INT, not 'abc'",
    "train --rounds": "--rounds: expected INT (see --help)",
    "train --resume": "--resume needs --out DIR",
    "train --ronds 3": "unknown option --ronds: did you mean --rounds? (see --help)",
    "train --ronds=3": "unknown option --ronds: did you mean --rounds? (see --help)",
    "train --colour blue": "unknown option --colour (see --help)",
    "train --seeds 3": "train has no option --seeds: it is one of sweep (see --help)",
    "train now": "no option takes 'now' (see --help)",
    "train --verbose=maybe": 'Invalid value for --verbose: unable to convert "maybe"',
    "sweep --rounds": "--rounds: expected INT (see --help)",
    "sweep --resume": "sweep has no option --resume: it is one of train (see --help)",
    "trian": 'Unknown command "trian". Did you mean "train"?',
    "": "name a command: train, sweep, costs, report, export, inspect, predict, eval",
    "train --data-dir here": "'digits' ships with the package and takes no --data-dir",
    "train --dataset npz": "'npz' needs --data-dir",
    "train --dataset npz --data-dir none.npz": "no file none.npz",
    "train --dataset fashion_mnist --data-dir none": "no directory none",
    "train --partition label-shards --classes-per-client 11": "between 1 and 10",
    "train --partition label-shards --classes-per-client 3": "divisor of the 10 class",
    "train --partition dirichlet --num-clients 50 --alpha 0.001": "larger --alpha",
    "train --partition label-shards --classes-per-client 20": "error: --classes-per-cl",
    "train --partition dirichlet --num-clients 50 --alpha 1e-3": "than 1 example in ",
    "train --rounds 1 --fine-tune-rounds 1": "must be below the 1 round",
    "train --client-sizes some": "one of skewed, uniform, uniform-non-iid",
    "sweep --final-sparsity 0.5,0.50": "--final-sparsity has 0.5 twice: give every",
    "sweep --final-sparsity 0.5,": "--final-sparsity is '0.5,': there is no value",
}


@pytest.mark.parametrize("command", BAD_OPTIONS)
def test_bad_options_are_one_line_and_leave_no_trace(command, capsys, tmp_path):
    assert BAD_OPTIONS[command] in refused(command.split(), capsys, tmp_path)
    # Nor is a directory made that was named.
    if command.startswith("train") and "--resume" not in command:
        named = [*command.split(), "--out", "new/run"]
        if command != "train --rounds":
            assert BAD_OPTIONS[command] in refused(named, capsys, tmp_path)


def test_out_under_a_file_or_in_a_used_directory(capsys, tmp_path):
    (tmp_path / "file").write_text("precious")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "config.json").write_text('{"options": {"rounds": 7}}')
    for out, message in {
        "file": "--out file is a file",
        "file/run": f"cannot write --out file/run: {tmp_path}/file is a file",
        "used": "--out used is not empty: add --resume",
    }.items():
        assert message in refused(["train", "--out", out], capsys, tmp_path)
    resumed = ["train", "--out", "used", "--resume"]
    assert "--rounds 7 -> 50" in refused(resumed, capsys, tmp_path)


def test_npz_files_that_cannot_be_used(capsys, tmp_path):
    good = {
        "x_train": np.ones((8, 2), np.float32),
        "y_train": np.arange(8) % 2,
        "x_test": np.ones((2, 2), np.float32),
        "y_test": np.arange(2),
    }
    command = ["train", "--dataset", "npz", "--num-clients", "2", "--data-dir"]
    np.savez("shapes.npz", **good | {"x_test": np.ones((2, 3), np.float32)})
    error = refused([*command, "shapes.npz"], capsys, tmp_path)
    assert "shapes.npz: training examples have shape (2,), test examples (3,)" in error
    np.savez("lengths.npz", **good | {"y_train": np.arange(7)})
    error = refused([*command, "lengths.npz"], capsys, tmp_path)
    assert "lengths.npz: training labels have shape (7,) for 8 examples" in error
    np.savez("good.npz", **good)
    whole = Path("good.npz").read_bytes()
    Path("cut.npz").write_bytes(whole[: len(whole) // 2])
    assert "not a readable npz" in refused([*command, "cut.npz"], capsys, tmp_path)


def test_npz_scales_and_targets_are_said_in_the_first_lines(capsys):
    x, y = np.arange(64.0).reshape(16, 4) * 4, np.linspace(1, 2, 16)
    np.savez("mine.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    words = ["--dataset", "npz", "--data-dir", "mine.npz", "--algorithm", "fedavg"]
    assert main([*SMALL, *words, "--out", "run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "inputs from 0 to 252 are divided by 255; targets are numbers" in lines[1]
    assert "test_mae" in json.loads(Path("run/summary.json").read_text())


@pytest.mark.parametrize("rate", ["1000", "1e-30"])
def test_a_run_that_learns_nothing_says_so(rate, capsys):
    words = ["--learning-rate", rate, "--algorithm", "fedavg", "--out", "run"]
    assert main([*SMALL, *words]) == 0
    summary = json.loads(Path("run/summary.json").read_text())
    assert re.search("diverged|never became better than", summary["warning"])
    assert f"warning: {summary['warning']}\n" in capsys.readouterr().out


class Gone(io.StringIO):
    """A stream whose reader has left, or whose device is full."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def write(self, text):
        raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("command", [[*SMALL, "--out", "run"], ["costs"], ["--help"]])
@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_output_that_cannot_be_written_ends_nothing(
    command, number, capsys, monkeypatch
):
    with monkeypatch.context() as patched:
        patched.setattr("sys.stdout", Gone(number))
        status = main(command)
    errors = capsys.readouterr().err
    if number == errno.EPIPE:
        assert (status, errors) == (0, "")
    else:
        assert status == (0 if command[0] == "train" else 1)
        line = "fedsparsify: standard output was lost: No space left on device\n"
        assert errors == line
    if command[0] == "train":
        assert json.loads(Path("run/summary.json").read_text())["rounds"] == 2


def test_a_directory_s_name_that_the_locale_cannot_read_is_refused(tmp_path):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    words = [sys.executable, "-m", "fedsparsify_jax", *SMALL, "--out", "l\u00e4ufe"]
    done = subprocess.run(words, capture_output=True, env=os.environ | locale)
    (line,) = done.stderr.decode().splitlines()
    assert done.returncode == 2 and "set PYTHONUTF8=1" in line
    assert line.startswith("fedsparsify: error: --out is ")
    assert not list(tmp_path.iterdir())


def test_a_pipe_that_is_closed_prints_no_traceback():
    command = f"{sys.executable} -m fedsparsify_jax costs --help"
    script = f"set -o pipefail; {command} | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_fashion_mnist_files_that_cannot_be_used(capsys, tmp_path):
    if not DEBIAN_DIR.is_dir():
        pytest.fail(f"{DEBIAN_DIR} is missing: apt-get install dataset-fashion-mnist")
    own = tmp_path / "own"
    own.mkdir()
    images, labels = (
        own / f"{name}-ubyte.gz" for name in ("train-images-idx3", "train-labels-idx1")
    )
    command = ["train", "--dataset", "fashion-mnist", "--data-dir", "own"]
    error = refused(command, capsys, tmp_path)
    assert "own has no file train-images-idx3-ubyte.gz" in error
    packed = (DEBIAN_DIR / images.name).read_bytes()
    images.write_bytes(packed[:100_000])
    assert "truncated or not gzip" in refused(command, capsys, tmp_path)
    images.unlink()
    images.symlink_to(DEBIAN_DIR / images.name)
    contents = bytearray(gzip.decompress((DEBIAN_DIR / labels.name).read_bytes()))
    contents[1000] ^= 1
    labels.write_bytes(gzip.compress(bytes(contents)))
    error = refused(command, capsys, tmp_path)
    assert re.search(r"train-labels\S+ is corrupt or not the official file", error)


def test_an_interrupted_run_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedsparsify_jax.cli.train", interrupted)
    assert main(["train"]) == 130
    shown = capsys.readouterr().err
    assert shown.startswith("fedsparsify: stopped by SIGINT; to go on: ")
    assert shown.endswith("fedsparsify train --out DIR --resume\n")
    assert shown.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "lacking"),
    [
        # As XLA says it of a TPU that is too small for a program.
        (
            jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of HBM: 25 of 15"),
            "Ran out of HBM: 25 of 15",
        ),
        (MemoryError("Unable to allocate 9 GiB"), "Unable to allocate 9 GiB"),
    ],
)
def test_too_little_memory_is_one_line_that_says_what_takes_less(
    error, lacking, capsys, monkeypatch
):
    def train(_):
        raise error

    monkeypatch.setattr("fedsparsify_jax.cli.train", train)
    assert main(["train"]) == 1
    shown = capsys.readouterr().err
    assert shown.startswith(f"fedsparsify: error: {lacking}; less is taken by ")
    assert "--chunk-size" in shown and shown.count("\n") == 1


def test_other_errors_of_a_device_are_shown_whole(monkeypatch):
    def train(_):
        raise jax.errors.JaxRuntimeError("INTERNAL: a fault")

    monkeypatch.setattr("fedsparsify_jax.cli.train", train)
    with pytest.raises(jax.errors.JaxRuntimeError, match="a fault"):
        main(["train"])
