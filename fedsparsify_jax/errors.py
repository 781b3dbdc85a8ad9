"""The one exception that means: the input is wrong, and this is what to do."""

import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_LONGEST = 100  # letters of a value that a message repeats


class InputError(ValueError):
    """Bad input from outside (an option, a file, a data set).

    The message is one line that names what is wrong and what would be right; the
    command line prints it as it is and exits with status 2. Line breaks and control
    characters in it, which come from file names, values and other people's messages,
    are written out.

    >>> print(InputError("no file a\\n\\x1b[2Jb"))
    no file a \\x1b[2Jb
    """

    def __init__(self, message: object = ""):
        line = " ".join(str(message).splitlines())
        super().__init__(
            line
            if line.isprintable()
            else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
        )


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """Returns the error for a name that is not among the ``known`` ones.

    >>> print(unknown("data set", "digit", ["digits", "npz"]))
    unknown data set 'digit': did you mean 'digits'? (known: digits, npz)
    """
    names = sorted(known)
    close = difflib.get_close_matches(name[:_LONGEST], names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    listed = ", ".join(names)
    return InputError(f"unknown {kind} {shown(name)}: {hint}(known: {listed})")


def shown(value: Any) -> str:
    """Returns any value as messages repeat it: in one line, and not at length.

    >>> shown(0.5), shown("two\\nlines"), shown(10**5000)
    ('0.5', "'two\\\\nlines'", 'an int')
    """
    try:
        text = repr(str(value) if isinstance(value, Path) else value)
    except Exception:  # whatever the value's own code raises; ValueError for huge ints
        text = f"{'an' if type(value).__name__[0] in 'aeiou' else 'a'} "
        text += type(value).__name__
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def counted(number: int, noun: str) -> str:
    """Returns a number of things, in words.

    >>> counted(1, "trace"), counted(2, "trace")
    ('1 trace', '2 traces')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def exhausted(error: BaseException) -> str:
    """Returns what an error says of memory that was not there; "" for other errors.

    Compilers and devices say so in the text of an error of JAX, Python and NumPy by a
    `MemoryError`.

    >>> exhausted(RuntimeError("RESOURCE_EXHAUSTED: Ran out of memory: 25 of 15 GiB"))
    'Ran out of memory: 25 of 15 GiB'
    >>> exhausted(MemoryError()), exhausted(RuntimeError("no such file"))
    ('out of memory', '')
    """
    _, marked, said = str(error).partition("RESOURCE_EXHAUSTED: ")
    if not marked and not isinstance(error, MemoryError):
        return ""
    lines = (said if marked else str(error)).strip().splitlines()
    return lines[0] if lines else "out of memory"
