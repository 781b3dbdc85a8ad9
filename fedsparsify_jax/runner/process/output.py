"""Standard output and standard error that outlive their readers.

A run's record is its files: ``| head``, a terminal that is gone and a full device must
not end it, nor may a letter that the terminal's encoding lacks.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast


class Output:
    """A text stream that never raises for what cannot be written.

    Attributes:
      failure: the first error of the stream; None as long as there is none.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.failure: OSError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Writes text, with what the encoding lacks written out; returns its length."""
        with self._surviving():
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding
                plain = text.encode(encoding, "backslashreplace").decode(encoding)
                self._stream.write(plain)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        with self._surviving():
            self._stream.flush()

    @contextlib.contextmanager
    def _surviving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = self.failure or error
            # What is still in buffers, and all that follows, goes nowhere.
            with contextlib.suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)

    @property
    def lost(self) -> str:
        """Returns why the output did not arrive; nothing if its reader only left."""
        if self.failure is None or isinstance(self.failure, BrokenPipeError):
            return ""
        return self.failure.strerror or type(self.failure).__name__


@contextlib.contextmanager
def surviving() -> Iterator[Output | None]:
    """Puts an `Output` in the place of both streams; yields the standard output's."""
    with contextlib.ExitStack() as stack:
        output = None
        if sys.stderr is not None:
            errors = cast(TextIO, Output(sys.stderr))
            stack.enter_context(contextlib.redirect_stderr(errors))
            stack.callback(errors.flush)
        if sys.stdout is not None:
            output = Output(sys.stdout)
            stack.enter_context(contextlib.redirect_stdout(cast(TextIO, output)))
            stack.callback(output.flush)
        yield output
