"""The one exception that means: the input is wrong, and this is what to do."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input from outside (an option, a file, a data set).

    The message is one line that names what is wrong and what would be right; the
    command line prints it as it is and exits with status 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name that is not among the ``known`` ones.

    >>> print(unknown("data set", "digit", ["digits", "npz"]))
    unknown data set 'digit': did you mean 'digits'? (known: digits, npz)
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return InputError(f"unknown {kind} {name!r}: {hint}(known: {', '.join(names)})")
