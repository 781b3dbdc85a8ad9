"""The end of processes that carry a mark in their environment, and of their children.

Flower's processes start others, some in sessions of their own; all inherit the mark.
Run as a script, this file waits until its standard input is closed, which also happens
when the process that started it is killed, and then ends all processes with the mark
and removes their temporary directories. It needs Python alone, and starts at once.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

MARK = "FEDSPARSIFY_FEDERATION"
"""The variable."""
GRACE = 4.0
"""Seconds between the polite signal and the other one."""
_PROC = Path("/proc")
_LOOK = 0.1


def end(mark: str, grace: float = GRACE) -> None:
    """Ends all processes with a mark, and returns when there are none."""
    deadline = time.monotonic() + grace
    _signal(marked(mark), signal.SIGTERM)
    while processes := marked(mark):
        if time.monotonic() > deadline:
            _signal(processes, signal.SIGKILL)
        time.sleep(_LOOK)


def marked(mark: str) -> list[int]:
    """Returns the numbers of the running processes with a mark."""
    word = f"{MARK}={mark}".encode()
    if not (_PROC / "self/environ").exists():
        return _listed(word)
    processes = []
    for path in _PROC.glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # of other users, or just ended
            if word in path.read_bytes().split(b"\0"):
                processes.append(int(path.parent.name))
    return processes


def _listed(word: bytes) -> list[int]:
    """Returns the same where there is no /proc, as on macOS."""
    lines = subprocess.run(
        ["ps", "-axEww", "-o", "pid=,command="], capture_output=True, check=True
    ).stdout.splitlines()
    pattern = re.compile(rb"\s" + re.escape(word) + rb"(\s|$)")
    return [int(line.split(None, 1)[0]) for line in lines if pattern.search(line)]


def _signal(processes: list[int], number: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, number)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    end(sys.argv[1])
    for directory in sys.argv[2:]:
        shutil.rmtree(directory, ignore_errors=True)
