"""Nothing that a federation starts outlives it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import fedsparsify_jax
from fedsparsify_jax.federate.processes import guarded, reason, words

ROOT = Path(fedsparsify_jax.__file__).parents[1]
# A process, its child, and a grandchild in a session of its own whose parent is gone.
FAMILY = (
    "sleep 3{n}1 & trap '' TERM; (setsid sleep 3{n}2 & exec true) & "
    "while true; do sleep 0.1; done"
)


def alive(number):
    """The family's processes that run, by the odd lengths of their sleeps."""
    lines = subprocess.run(
        ["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = (f"sleep 3{number}1", f"sleep 3{number}2", f"sleep 3{number}1 &")
    return sum(
        any(name in line for name in names)
        for line in lines
        if not line.startswith("Z")
    )


def wait_for(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def family(number):
    return ["bash", "-c", FAMILY.format(n=number)]


def test_all_processes_end_and_those_that_they_started(tmp_path):
    number = os.getpid() * 10
    with guarded(tmp_path) as processes:
        processes.start("family", family(number), os.environ)
        wait_for(lambda: alive(number) == 3)
    assert alive(number) == 0


def test_they_end_after_an_error(tmp_path):
    number = os.getpid() * 10 + 1
    with pytest.raises(KeyboardInterrupt), guarded(tmp_path) as processes:
        processes.start("family", family(number), os.environ)
        wait_for(lambda: alive(number) == 3)
        raise KeyboardInterrupt
    assert alive(number) == 0


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGTERM])
def test_they_end_when_their_starter_is_killed(tmp_path, name):
    number = os.getpid() * 10 + 2 + (name == signal.SIGKILL)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    script = f"""
import os, pathlib, time
from fedsparsify_jax.federate.processes import guarded
path = pathlib.Path({str(tmp_path)!r})
with guarded(path, path / "temporary") as processes:
    processes.start("family", {family(number)!r}, os.environ)
    time.sleep(600)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    with subprocess.Popen([sys.executable, "-c", script], env=environment) as starter:
        wait_for(lambda: alive(number) == 3)
        starter.send_signal(name)
    wait_for(lambda: alive(number) == 0 and not temporary.exists())


def test_others_processes_are_left_alone(tmp_path):
    with subprocess.Popen(["sleep", "60"]) as other:
        with guarded(tmp_path / "a"), guarded(tmp_path / "b") as processes:
            process = processes.start("b", ["sleep", "60"], os.environ)
            with guarded(tmp_path / "c"):
                pass
            assert process.running()
        assert not process.running()
        assert other.poll() is None
        other.kill()


def test_a_process_that_ended_tells_its_last_words(tmp_path):
    with guarded(tmp_path) as processes:
        command = ["sh", "-c", "echo first; echo no such disk >&2; echo; exit 3"]
        process = processes.start("node-1", command, os.environ)
        wait_for(lambda: not process.running())
        line = f"node-1 ended with status 3: no such disk (see {tmp_path}/node-1.log)"
        assert str(process.failure()) == line


def test_a_log_tells_each_process_its_own_part(tmp_path):
    with guarded(tmp_path) as processes:
        for word in ("first", "second"):
            process = processes.start("node-1", ["echo", word], os.environ)
            wait_for(lambda process=process: not process.running())
            assert process.output() == f"{word}\n"


def test_a_silent_process_has_no_last_words():
    assert reason("\n│  │\n") == "it said nothing"


def test_flowers_reason_is_told_and_not_what_its_helpers_say_after_it():
    output = """\x1b[91mERROR \x1b[0m:     Exit Code: 305
Failed to initialize the connection to the SuperLink.
[code: 2001] All SuperNodes must be registered.

For more information, visit: <https://flower.ai>
\x1b[92mINFO \x1b[0m:      SuperExec terminated gracefully.
"""
    assert reason(output) == (
        "305 Failed to initialize the connection to the SuperLink. "
        "[code: 2001] All SuperNodes must be registered."
    )


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("INFO:     Shutting down", "Shutting down"),
        ("\x1b[93mWARNING \x1b[0m:   Connection failed", "Connection failed"),
        ("│ no such file   │", "no such file"),
        ("Error: INFO: kept", "Error: INFO: kept"),
    ],
)
def test_words_are_without_colours_frames_and_levels(line, text):
    assert words(line) == text
