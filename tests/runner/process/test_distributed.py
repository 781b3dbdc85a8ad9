"""Two real processes on loopback, started by the command that the docs give."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.process import distributed

COMMAND = (sys.executable, "-m", "fedsparsify_jax", "train")
TINY = (
    *("--dataset", "digits", "--model", "mlp", "--algorithm", "fedsparsify-local"),
    *("--num-clients", "4", "--train-subset", "300", "--local-epochs", "1"),
    *("--momentum", "0.9", "--optimizer-state", "kept", "--checkpoint-every", "1"),
    *("--devices", "1", "--compilation-cache", "off"),
)
PATIENCE = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nobody_stays():
    yield
    while STARTED:
        with STARTED.pop() as process:
            process.kill()


def start(*options):
    settings = {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    process = subprocess.Popen(
        [*COMMAND, *TINY, *map(str, options)],
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def pair(*options):
    """The two processes of one job."""
    job = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", 2)
    return [start(*options, *job, "--process-id", i) for i in range(2)]


def ends(process):
    """Status, standard output and error lines."""
    out, err = process.communicate(timeout=PATIENCE)
    lines = [line for line in err.splitlines() if line.startswith("fedsparsify:")]
    return process.returncode, out, lines, err


def records(directory):
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def send(number, process, out):
    """A signal, once two rounds of the job are over."""
    deadline = time.monotonic() + PATIENCE
    while len(records(out)) < 2:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(number)


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name in one.keys() - {"seconds", "kept"}:
            np.testing.assert_allclose(one[name], other[name], rtol=1e-5, err_msg=name)
        assert one["kept"] == other["kept"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Six rounds on a single process."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    status, _, _, err = ends(start("--rounds", 6, "--out", directory))
    assert status == 0, err
    return records(directory)


def test_two_processes_give_what_one_gives(alone, tmp_path):
    first, second = map(ends, pair("--rounds", 6, "--out", tmp_path / "run"))
    assert first[0] == 0, first[-1]
    assert second[0] == 0, second[-1]
    assert_same(records(tmp_path / "run"), alone)
    assert (tmp_path / "run" / "summary.json").exists()
    assert (tmp_path / "run" / "model").exists()
    assert "round 6/6" in first[1]
    assert "round" not in second[1]


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_job_which_then_resumes(alone, tmp_path, victim):
    """On both processes again, or on a single one."""
    out = tmp_path / "run"
    processes = pair("--rounds", 6, "--out", out)
    send(signal.SIGKILL, processes[victim], out)
    killed = time.monotonic()
    status, _, said, err = ends(processes[1 - victim])
    assert time.monotonic() - killed < distributed.SILENCE + 15
    assert status not in (0, None)
    if victim == 0 and not said:
        # Process 0 coordinates: JAX aborts who has lost it, at times before our line.
        assert "another task died" in err
    else:
        assert len(said) == 1, err
        assert f"process {1 - victim} of 2 stopped" in said[0]
        assert "--resume" in said[0]
    assert ends(processes[victim])[0] == -signal.SIGKILL

    assert len(records(out)) < 6
    rest = ("--rounds", 6, "--out", out, "--resume")
    again = pair(*rest) if victim else [start(*rest)]
    for process in again:
        status, _, _, err = ends(process)
        assert status == 0, err
    assert_same(records(out), alone)


def test_a_signal_to_one_process_stops_all_after_the_same_round(tmp_path):
    out, rounds = tmp_path / "run", 40
    processes = pair("--rounds", rounds, "--out", out)
    send(signal.SIGTERM, processes[1], out)  # process 0 has to hear of it
    for status, _, _, err in map(ends, processes):
        assert status == 128 + signal.SIGTERM, err
    stopped = len(records(out))
    assert 2 <= stopped < rounds
    saved = [int(path.name) for path in (out / "checkpoints").iterdir()]
    assert max(saved) == stopped
    status, _, _, err = ends(start("--rounds", rounds, "--out", out, "--resume"))
    assert status == 0, err
    assert [record["round"] for record in records(out)] == list(range(1, rounds + 1))


def test_what_process_0_refuses_ends_all(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    first, second = map(ends, pair("--rounds", 2, "--out", tmp_path))
    assert first[0] == second[0] == 2
    assert len(first[2]) == len(second[2]) == 1
    assert "is not empty" in first[2][0]
    assert "as process 0" in second[2][0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((None, 2, None), "--num-processes and --process-id need --coordinator"),
        (("node0", 2, 0), "--coordinator is 'node0': expected HOST:PORT"),
        (("node0:1234", None, 0), "needs --num-processes and --process-id"),
        (("node0:1234", 0, 0), "--num-processes is 0: it must be at least 1"),
        (("node0:1234", 2, 2), "--process-id is 2: it must be between 0 and 1"),
    ],
)
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(InputError, match=message):
        distributed.check(*options)


def test_a_single_process_decides_for_itself():
    assert distributed.alone() and distributed.is_first()
    assert distributed.first_decides(lambda: 3) == 3
    assert distributed.first_decides(lambda: None) == 0
