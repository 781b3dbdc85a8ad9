"""SIGTERM and SIGINT: finish the round in hand, save, and say how to go on.

Python runs signal handlers between two instructions of the main thread, and a compiled
round is one instruction. So a thread listens too: it says at once that the signal has
arrived, and ends the process at the second one even inside a round.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SAME = 0.1
"""Seconds in which signals count as one: ``timeout`` and some schedulers send two."""


class Stopped(KeyboardInterrupt):
    """The end of a run by a signal, with what it had reached saved.

    A `KeyboardInterrupt`, so that no handler of exceptions swallows it.

    Attributes:
      number: the signal's.
      out: the directory of the run, if it got that far.
    """

    def __init__(self, number: int, out: Path | None = None, reached: str = ""):
        self.number, self.out = signal.Signals(number), out
        words = ("stopped by", self.number.name, reached)
        super().__init__(" ".join(filter(None, words)))

    @property
    def status(self) -> int:
        """Returns the exit status by convention, 143 or 130."""
        return 128 + self.number


class Stop:
    """A request to stop, if one has come.

    Attributes:
      number: the first signal's, 0 before it came.
    """

    def __init__(self, at_once: bool):
        self.number = 0
        self._at_once, self._deferring = at_once, False

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Makes the first signal only set `number`; elsewhere it raises `Stopped`."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def handle(self, number: int, frame: Any) -> None:
        """Handles a signal, in the main thread."""
        if self.number and number == signal.SIGINT and not self._at_once:
            raise KeyboardInterrupt
        self.number = self.number or number
        if not self._deferring:
            raise Stopped(self.number)

    def listen(self, pipe: int) -> None:
        """Reads the numbers of signals as they arrive, up to a zero."""
        first = None
        while number := os.read(pipe, 1)[0]:
            if first is None:
                first = time.monotonic()
                if self._deferring:
                    name = signal.Signals(number).name
                    text = "finishing the round, then saving; again to end now"
                    _write(f"fedsparsify: {name}: {text}\n")
            elif time.monotonic() - first < SAME:
                continue
            elif self._at_once or number == signal.SIGTERM:
                _write("\x1b[?25h" if os.isatty(2) else "")  # shows the cursor again
                os._exit(128 + number)


def _write(text: str) -> None:
    """Writes to standard error, past every lock that the main thread may hold."""
    with contextlib.suppress(OSError):
        os.write(2, text.encode())


@contextlib.contextmanager
def catching(*, at_once: bool = False) -> Iterator[Stop]:
    """Listens to SIGTERM and SIGINT, and restores everything afterwards.

    Inside another `catching` it yields the outer `Stop`. A caller's handlers, ignored
    signals, and threads other than the main one are left as they are.

    Args:
      at_once: whether the second signal may end the process. A second SIGINT is an
        ordinary `KeyboardInterrupt` otherwise.

    Example:
      >>> with catching() as stop, stop.deferred():
      ...     signal.raise_signal(signal.SIGTERM)
      ...     signal.Signals(stop.number).name
      'SIGTERM'
    """
    outer = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    in_main = threading.current_thread() is threading.main_thread()
    if isinstance(outer, Stop) or not in_main:
        yield outer if isinstance(outer, Stop) and in_main else Stop(at_once)
        return
    stop = Stop(at_once)
    usual: dict[int, Any] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    replaced = [n for n, handler in usual.items() if signal.getsignal(n) == handler]
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listener = threading.Thread(target=stop.listen, args=(reading,), daemon=True)
    listener.start()
    for number in replaced:
        signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        for number in replaced:
            signal.signal(number, usual[number])
        signal.set_wakeup_fd(before)
        os.write(writing, b"\0")
        listener.join()
        os.close(reading)
        os.close(writing)
