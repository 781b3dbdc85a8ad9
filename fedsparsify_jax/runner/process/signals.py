"""SIGTERM and SIGINT: finish the round in hand, save, and say how to go on.

Python runs signal handlers between two instructions of the main thread, and a compiled
round is one instruction. So a thread listens too: it tells people at once that they
were heard, and ends the process at the second signal even inside a round.
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
    """A signal ended the run, and what it had reached is saved.

    A `KeyboardInterrupt`, so that nobody who catches exceptions swallows it.

    Attributes:
      number: the signal's.
      out: the directory of the run, if it got that far.
      reached: what is saved, for people: "after round 12".
    """

    def __init__(self, number: int, out: Path | None = None, reached: str = ""):
        self.number, self.out, self.reached = number, out, reached
        super().__init__(" ".join(filter(None, ("stopped by", self.name, reached))))

    @property
    def name(self) -> str:
        """SIGTERM or SIGINT."""
        return signal.Signals(self.number).name

    @property
    def status(self) -> int:
        """The exit status by convention: 143 or 130."""
        return 128 + self.number


class Stop:
    """Whether the run is to stop.

    Attributes:
      number: the first signal's, 0 before one came.
    """

    def __init__(self, at_once: bool):
        self.number = 0
        self._at_once, self._deferring, self._handled = at_once, False, 0
        self._heard: float | None = None

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal only sets `number`; elsewhere it raises."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    def handle(self, number: int, frame: Any) -> None:
        """The handler, in the main thread."""
        del frame
        self._handled += 1
        self.number = self.number or number
        if self._handled > 1 and number == signal.SIGINT and not self._at_once:
            raise KeyboardInterrupt
        if not self._deferring:
            raise Stopped(self.number)

    def listen(self, pipe: int) -> None:
        """Reads the numbers of signals as they arrive, up to a zero."""
        while number := os.read(pipe, 1)[0]:
            now = time.monotonic()
            if self._heard is None:
                self._heard = now
                if self._deferring:
                    name = signal.Signals(number).name
                    _say(f"{name}: finishing the round, then saving; again to end now")
            elif now - self._heard < SAME:
                continue
            elif self._at_once or number == signal.SIGTERM:
                _say("\x1b[?25h" if os.isatty(2) else "", end="")  # the cursor
                os._exit(128 + number)


def _say(text: str, end: str = "\n") -> None:
    """To standard error, past every lock that the main thread may hold."""
    line = f"fedsparsify: {text}{end}" if end else text
    with contextlib.suppress(OSError):
        os.write(2, line.encode())


def _installed() -> Stop | None:
    """The one whose handlers are at work."""
    owner = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    return owner if isinstance(owner, Stop) else None


@contextlib.contextmanager
def catching(*, at_once: bool = False) -> Iterator[Stop]:
    """Listens to SIGTERM and SIGINT, and puts everything back afterwards.

    Inside another one it is that one. Handlers that a caller has installed, signals
    that are ignored, and threads other than the main one are left as they are.

    Args:
      at_once: whether the process is ours to end at the second signal. A second SIGINT
        is an ordinary `KeyboardInterrupt` otherwise.

    Example:
      >>> with catching() as stop, stop.deferred():
      ...     signal.raise_signal(signal.SIGTERM)
      ...     signal.Signals(stop.number).name
      'SIGTERM'
    """
    outer = _installed()
    main = threading.current_thread() is threading.main_thread()
    if outer is not None or not main:
        yield (outer if main and outer is not None else Stop(at_once))
        return
    ours: dict[int, Any] = {
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGINT: signal.default_int_handler,
    }
    ours = {n: usual for n, usual in ours.items() if signal.getsignal(n) == usual}
    stop = Stop(at_once)
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    listener = threading.Thread(target=stop.listen, args=(reading,), daemon=True)
    listener.start()
    for number in ours:
        signal.signal(number, stop.handle)
    try:
        yield stop
    finally:
        for number, usual in ours.items():
            signal.signal(number, usual)
        signal.set_wakeup_fd(before)
        os.write(writing, b"\0")
        listener.join()
        os.close(reading)
        os.close(writing)
