"""Rules of options' values, as they stand beside the fields of a configuration."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from fedsparsify_jax.errors import InputError, unknown


def flag(field: str) -> str:
    """Returns an option as it is typed: ``batch_size`` as ``--batch-size``."""
    return "--" + field.replace("_", "-")


def in_options(message: str, fields: Mapping[str, str] | None = None) -> str:
    """Returns a message of the core with its arguments' names as options.

    Names with an underscore are no other words. Of plain ones only the message's first
    word is taken for a name, wherever it is repeated.

    Args:
      message: of an error.
      fields: names of arguments to options, where these differ.

    Example:
      >>> in_options("alpha 0.1 is low: use a larger alpha or a smaller batch_size")
      '--alpha 0.1 is low: use a larger --alpha or a smaller --batch-size'
    """
    first = message.partition(" ")[0]

    def option(match: re.Match[str]) -> str:
        name = match.group()
        return flag((fields or {}).get(name, name))

    names = [r"[a-z]+(?:_[a-z]+)+"] + ([first] if re.fullmatch("[a-z]+", first) else [])
    return re.sub(rf"(?<![\w./-])(?:{'|'.join(names)})(?![\w./(-])", option, message)


class Rule(NamedTuple):
    """One condition on an option's values.

    Attributes:
      holds: whether a value is allowed; it has the option's type.
      allowed: completes "it must be ...".
    """

    holds: Callable[[Any], bool]
    allowed: str

    @property
    def range(self) -> str:
        """Returns the same for the help, without limits beyond any use."""
        return self.allowed.removesuffix(" and below 2^31").removesuffix(" and finite")


class Choice(NamedTuple):
    """Values that are names; ``-`` and ``_``, capitals and small letters are the same.

    Attributes:
      names: what may be chosen.
      unlisted: other names that are taken, but not offered.
    """

    names: tuple[str, ...]
    unlisted: tuple[str, ...] = ()

    def canonical(self, field: str, name: str, kind: str = "") -> str:
        """Returns the listed spelling of a name.

        Args:
          field: the option's.
          name: any spelling.
          kind: what people call such names; the field, in words.

        Raises:
          InputError: with the nearest name, if there is none.
        """
        listed = (*self.names, *self.unlisted)
        spellings = {entry.lower().replace("_", "-"): entry for entry in listed}
        plain = name.strip().lower().replace("_", "-")
        if plain not in spellings:
            error = unknown(kind or field.replace("_", " "), name, self.names)
            raise InputError(f"{flag(field)}: {error}")
        return spellings[plain]


class Grammar(NamedTuple):
    """Values that are texts of some form.

    Attributes:
      canonical: the text as it is kept; raises `InputError` for another form.
      metavar: the form, for the help.
    """

    canonical: Callable[[str], str]
    metavar: str


def at_least(low: int, *, below: int = 2**31) -> Rule:
    """Allows whole numbers from ``low`` and below a power of two.

    >>> at_least(1).allowed, at_least(1).holds(0)
    ('at least 1 and below 2^31', False)
    """
    allowed = f"at least {low} and below 2^{below.bit_length() - 1}"
    return Rule(lambda value: low <= value < below, allowed)


def above(low: float) -> Rule:
    """Allows finite numbers above ``low``."""
    return Rule(lambda value: low < value < math.inf, f"above {low:g} and finite")


def from_up(low: float) -> Rule:
    """Allows finite numbers from ``low``."""
    return Rule(lambda value: low <= value < math.inf, f"at least {low:g} and finite")


def between(low: float, high: float) -> Rule:
    """Allows numbers from ``low`` to ``high``, both included."""
    return Rule(lambda value: low <= value <= high, f"between {low:g} and {high:g}")


Switch = Literal["on", "off"]
"""Values of an option that is one or the other."""

BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")
HALF = Rule(lambda value: 0 <= value < 0.5, "at least 0 and below 0.5")
SHARE = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")
