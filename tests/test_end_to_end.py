"""The real command line in processes of its own: runs, repeats, kills, resumes."""

import csv
import json
import re
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from processes import MODULE, finished, start

from fedsparsify_jax.data.sources.fashion_mnist import DEBIAN_DIR
from fedsparsify_jax.runner.storage.model_files import load_model

ROUNDS, PARAMETERS = 40, 26_122  # the MLP on digits: 64-128-128-10
DIGITS = ["train", "--rounds", str(ROUNDS), "--local-epochs", "2"]
KEYS = {
    "round",
    "test_accuracy",
    "test_loss",
    "train_loss",
    "sparsity",
    "target_sparsity",
    "bytes_up",
    "bytes_down",
    "seconds",
}


def metrics(run):
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def without_seconds(run):
    return [
        {key: value for key, value in record.items() if key != "seconds"}
        for record in metrics(run)
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same training twice, side by side, the first with JAX's compile log."""
    directory = tmp_path_factory.mktemp("runs")
    processes = [
        start([*DIGITS, "--out", "one", "--verbose"], directory, JAX_LOG_COMPILES="1"),
        start([*DIGITS, "--out", "two"], directory),
    ]
    results = [finished(process) for process in processes]
    for status, _, err in results:
        assert status == 0, err[-2000:]
    return directory, results


def test_a_run_leaves_the_files_of_the_contract(runs):
    run = runs[0] / "one"
    names = {path.name for path in run.iterdir()}
    wanted = {"config.json", "metrics.jsonl", "summary.json", "checkpoints", "model"}
    assert names == wanted | {"partition.json"}
    records = metrics(run)
    assert [record["round"] for record in records] == list(range(1, ROUNDS + 1))
    assert all(record.keys() >= KEYS for record in records)
    options = json.loads((run / "config.json").read_text())["options"]
    assert options["rounds"] == ROUNDS and options["learning_rate"] == 0.1
    assert not (run.parent / "runs").exists()


def test_the_schedule_ends_at_the_exact_count(runs):
    run = runs[0] / "one"
    kept = PARAMETERS - PARAMETERS * 9 // 10
    last, summary = metrics(run)[-1], json.loads((run / "summary.json").read_text())
    assert sum(last["kept"].values()) == summary["parameters_kept"] == kept
    assert last["sparsity"] == pytest.approx(1 - kept / PARAMETERS, abs=1e-7)
    variables, about = load_model(run / "model")
    arrays = [
        array for layer in variables["params"].values() for array in layer.values()
    ]
    assert sum(array.size for array in arrays) == PARAMETERS
    assert sum(int(np.count_nonzero(array)) for array in arrays) <= kept
    assert about["test_accuracy"] == summary["test_accuracy"] > 0.8
    assert last["bytes_down"] <= 10 * 4 * kept


def test_the_output_is_made_for_pipes(runs):
    _, (_, out, err) = runs[1]
    lines = out.splitlines()
    assert lines[0].startswith("fedsparsify-global on digits: 10 clients of 143 to 144")
    rounds = [line for line in lines if line.startswith("round ")]
    assert len(rounds) == ROUNDS and rounds[0].startswith(f"round  1/{ROUNDS}  train")
    tail = lines[lines.index(rounds[-1]) + 1 :]
    names = ("", "test accuracy", "sparsity", "parameters kept", "bytes moved", "time")
    for line, name in zip(tail, (*names, "run directory"), strict=True):
        assert line.startswith(name)
    assert tail[3].endswith("2,613 of 26,122") and tail[-1].endswith("  two")
    assert all(line == line.rstrip() for line in lines)
    assert "\x1b" not in out and err == ""


def test_the_round_is_traced_and_compiled_once(runs):
    _, out, err = runs[1][0]
    assert out.splitlines()[-1] == "round step: 1 trace, 1 compilation"
    compiled = [
        line for line in err.splitlines() if re.search(r"Compiling .*federated_", line)
    ]
    assert len(compiled) == 1 and "federated_round" in compiled[0]


def test_any_number_of_devices_gives_the_same_rounds(tmp_path):
    """Six clients: divided evenly over 1 and 2 devices, with padding over 4 and 8."""
    short = ["train", "--rounds", "4", "--local-epochs", "1", "--num-clients", "6"]
    processes = [
        start([*short, "--devices", str(n), "--out", str(n)], tmp_path)
        for n in (1, 2, 4, 8)
    ]
    for process in processes:
        status, _, err = finished(process)
        assert (status, err) == (0, "")
    alone, *others = (metrics(tmp_path / str(n)) for n in (1, 2, 4, 8))
    for records in others:
        for one, other in zip(alone, records, strict=True):
            assert one["kept"] == other["kept"]
            for name in ("train_loss", "test_loss"):
                assert other[name] == pytest.approx(one[name], abs=1e-5)


def test_the_same_seed_gives_the_same_run(runs):
    one, two = (runs[0] / name for name in ("one", "two"))
    assert without_seconds(one) == without_seconds(two)
    assert model_bytes(one) == model_bytes(two)


def model_bytes(run):
    return (run / "model" / "model.safetensors").read_bytes()


def ended(number, arguments, directory, ready):
    """Starts a run and sends it a signal as soon as it is ``ready``."""
    process = start(arguments, directory)
    deadline = time.monotonic() + 240
    try:
        while not ready():
            assert process.poll() is None, "the run ended before it could be stopped"
            assert time.monotonic() < deadline, "the run does not get on"
            time.sleep(0.002)
        process.send_signal(number)
        status, _, err = finished(process)
    finally:
        process.kill()
    return status, err


def test_a_run_that_is_killed_again_and_again_ends_the_same(runs):
    """The job's own command line starts it, and starts it again."""
    directory, run = runs[0], runs[0] / "killed"
    command = [*DIGITS, "--checkpoint-every", "1", "--out", "killed", "--resume"]
    command += ["--logger", "csv", "tensorboard"]

    def rounds():
        path = run / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def saving():
        return rounds() > before and any((run / "checkpoints").glob("saving-*"))

    assert ended(signal.SIGKILL, command, directory, lambda: rounds() >= 3)[0] == -9
    assert (run / ".lock").exists() and not (run / "model").exists()
    before = rounds()
    assert ended(signal.SIGKILL, command, directory, saving)[0] == -9

    before = rounds()
    status, err = ended(signal.SIGTERM, command, directory, lambda: rounds() > before)
    *_, line = err.splitlines()
    stopped = re.fullmatch(
        r"fedsparsify: stopped by SIGTERM after round (\d+); to go on: fedsparsify "
        r"train .* --out killed --resume --logger csv tensorboard",
        line,
    )
    assert status == 143 and stopped is not None
    assert rounds() == int(stopped[1]) < ROUNDS and not (run / ".lock").exists()

    status, out, err = finished(start(command, directory))
    assert (status, err) == (0, "")
    assert f"resuming after round {stopped[1]}" in out.splitlines()
    assert without_seconds(run) == without_seconds(directory / "one")
    assert model_bytes(run) == model_bytes(directory / "one")
    # What was logged before the kill is not there twice.
    with (run / "metrics.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ("round", "test_accuracy", "train_loss")
    assert [[float(row[name]) for name in names] for row in rows] == [
        [record[name] for name in names] for record in metrics(run)
    ]
    assert len(list((run / "tensorboard").iterdir())) == 1


def test_fashion_mnist_with_a_hundred_clients(tmp_path):
    if not DEBIAN_DIR.is_dir():
        pytest.fail(f"{DEBIAN_DIR} is missing: apt-get install dataset-fashion-mnist")
    options = (
        "train --dataset fashion_mnist --num-clients 100 --participation 0.1 "
        "--partition label-shards --rounds 2 --local-epochs 1 --final-sparsity 0.5"
    )
    status, out, err = finished(start([*options.split(), "--out", "run"], tmp_path))
    assert status == 0, err[-2000:]
    assert "100 clients of 600 to 600 examples, label-shards partition" in out
    first, last = metrics(tmp_path / "run")
    assert last["sparsity"] == pytest.approx(0.5, abs=1e-5)
    assert last["bytes_dense"] == 2 * 10 * 118_282 * 4
    assert first["bytes_up"] <= 10 * 118_282 * 4
    assert max(first["test_accuracy"], last["test_accuracy"]) > 0.15


def script():
    """The console script, or what stands for it where nothing is installed."""
    path = Path(sys.executable).with_name("fedsparsify")
    if path.exists():
        return [str(path)]
    code = "import sys; from fedsparsify_jax.cli import main; sys.exit(main())"
    return [sys.executable, "-c", code]


def test_bad_input_ends_with_status_2_and_one_line(runs, tmp_path):
    used = runs[0] / "one"
    commands = {
        "is not empty: add --resume": ([*DIGITS, "--out", str(used)], MODULE),
        "--rounds: expected INT, not 'abc'": (["train", "--rounds", "abc"], script()),
        "error: name a command: train, sweep, costs, report, export, inspect, pr": (
            [],
            MODULE,
        ),
    }
    processes = {
        message: start(arguments, tmp_path, command)
        for message, (arguments, command) in commands.items()
    }
    for message, process in processes.items():
        status, out, err = finished(process)
        assert (status, out) == (2, "")
        assert err.startswith("fedsparsify: error: ") and message in err
        assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_without_utf8_gets_the_same_line(tmp_path):
    process = start(["train", "--ronds", "3"], tmp_path, PYTHONIOENCODING="ascii")
    assert finished(process) == (
        2,
        "",
        "fedsparsify: error: unknown option --ronds: did you mean --rounds? "
        "(see --help)\n",
    )
