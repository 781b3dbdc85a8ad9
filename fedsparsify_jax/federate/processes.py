"""Processes with logs, all of which end with the process that started them."""

import contextlib
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import guard

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_LOG_LEVEL = re.compile(r"^(INFO|WARNING|ERROR|DEBUG)\s*:\s*")
_EXIT = "Exit Code: "
_FRAME = "│╭╮╰╯─┃━ "


class Process:
    """A process that writes to a log.

    Attributes:
      name: for people.
      log: the file of its output.
    """

    def __init__(self, name: str, popen: subprocess.Popen[bytes], log: Path, at: int):
        self.name, self.log = name, log
        self._popen, self._at = popen, at

    def running(self) -> bool:
        """Says whether it has not ended."""
        return self._popen.poll() is None

    @property
    def status(self) -> int | None:
        """Returns the exit status, None while it runs."""
        return self._popen.poll()

    def kill(self) -> None:
        """Ends it at once, with all processes of its session."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, 9)
        self._popen.wait()

    def failure(self) -> InputError:
        """Returns the error for a process that should not have ended."""
        text = f"{self.name} ended with status {self.status}"
        return InputError(f"{text}: {reason(self.output())} (see {self.log})")

    def output(self) -> str:
        """Returns what it wrote so far."""
        return self.log.read_bytes()[self._at :].decode("utf-8", "replace")


class Processes:
    """Starts processes that carry a mark, see `guard`."""

    def __init__(self, logs: Path, mark: str):
        self._logs, self._mark = logs, mark
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, name: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> Process:
        """Starts a process in a session of its own; its log is appended to."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            at = output.tell()
            popen = subprocess.Popen(
                command,
                env={**environment, guard.MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._started.append(popen)
        return Process(name, popen, log, at)

    def end(self) -> None:
        """Ends all of them, and all processes that they started."""
        guard.end(self._mark)
        for popen in self._started:
            popen.wait()


@contextlib.contextmanager
def guarded(logs: Path, *temporary: Path) -> Iterator[Processes]:
    """Ends all processes that were started within, and theirs, in every case.

    Temporary directories are removed then. A second process sees to both, also if this
    one is killed.
    """
    logs.mkdir(parents=True, exist_ok=True)
    mark = secrets.token_hex(16)
    watching = subprocess.Popen(
        [sys.executable, guard.__file__, mark, *map(str, temporary)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    processes = Processes(logs, mark)
    try:
        yield processes
    finally:
        try:
            processes.end()
        finally:
            pipe: IO[bytes] | None = watching.stdin
            if pipe is not None:
                pipe.close()
            watching.wait()


def reason(output: str) -> str:
    """Returns why a process ended, in one line: Flower's words, or its last ones.

    >>> reason("Exit Code: 305\\nNo connection.\\n\\nFor more, visit\\nINFO: bye")
    '305 No connection.'
    """
    _, code, after = output.rpartition(_EXIT)
    if code:
        return " ".join(map(words, after.partition("\n\n")[0].splitlines()))
    lines = [words(line) for line in output.splitlines()]
    return next((line for line in reversed(lines) if line), "it said nothing")


def words(line: str) -> str:
    """Returns a line of a log without colours, frames and the level.

    >>> words("\\x1b[91mERROR \\x1b[0m:     no such file")
    'no such file'
    """
    text = _COLOUR.sub("", line).strip(_FRAME)
    return _LOG_LEVEL.sub("", text).strip()
