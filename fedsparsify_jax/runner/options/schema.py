"""Rules beside the fields of a configuration, and one place that applies them.

A field says what its values may be, ``rounds: Annotated[int, at_least(1)] = 50``, and
`read` collects name, type, default, help and rules of all fields. The command line,
sweeps, configurations made in Python and files all go through `Option.check`.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import os
import textwrap
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin
from typing import get_type_hints as hints_of

import numpy as np

from fedsparsify_jax.errors import InputError, shown, unknown


class Rule(NamedTuple):
    """One condition on an option's values.

    Attributes:
      holds: whether a value is allowed; it has the option's type.
      allowed: completes "it must be ...".
    """

    holds: Callable[[Any], bool]
    allowed: str


class Choice(NamedTuple):
    """Values that are names; ``-`` and ``_``, capitals and small letters are the same.

    Attributes:
      names: what may be chosen.
      unlisted: other names that are taken, but not offered.
    """

    names: tuple[str, ...]
    unlisted: tuple[str, ...] = ()

    def canonical(self, field: str, name: str, kind: str = "") -> str:
        """The known spelling of a name that was given for an option.

        Args:
          field: the option's.
          name: what was given.
          kind: what people call such names; the field, in words.

        Raises:
          InputError: with the nearest name, if there is none.
        """
        known = (*self.names, *self.unlisted)
        spellings = {entry.lower().replace("_", "-"): entry for entry in known}
        wanted = name.strip().lower().replace("_", "-")
        if wanted not in spellings:
            error = unknown(kind or field.replace("_", " "), name, self.names)
            raise InputError(f"{flag(field)}: {error}")
        return spellings[wanted]


class Grammar(NamedTuple):
    """Values that are texts of some form.

    Attributes:
      canonical: the text as it is kept; raises `InputError` for another form.
      metavar: the form, for the help.
    """

    canonical: Callable[[str], str]
    metavar: str


def at_least(low: int, *, below: int = 2**31) -> Rule:
    """Whole numbers from ``low`` and below a power of two.

    >>> at_least(1).allowed, at_least(1).holds(0)
    ('at least 1 and below 2^31', False)
    """
    allowed = f"at least {low} and below 2^{below.bit_length() - 1}"
    return Rule(lambda value: low <= value < below, allowed)


def above(low: float) -> Rule:
    """Finite numbers above ``low``."""
    return Rule(lambda value: low < value < math.inf, f"above {low:g} and finite")


def from_up(low: float) -> Rule:
    """Finite numbers from ``low``."""
    return Rule(lambda value: low <= value < math.inf, f"at least {low:g} and finite")


def between(low: float, high: float) -> Rule:
    """Numbers from ``low`` to ``high``, both included."""
    return Rule(lambda value: low <= value <= high, f"between {low:g} and {high:g}")


BELOW_ONE = Rule(lambda value: 0 <= value < 1, "at least 0 and below 1")
HALF = Rule(lambda value: 0 <= value < 0.5, "at least 0 and below 0.5")
SHARE = Rule(lambda value: 0 < value <= 1, "above 0 and at most 1")

_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "True or False",
    Path: "a path",
}
_METAVARS: dict[type, str | None] = {
    int: "INT",
    float: "FLOAT",
    str: "NAME",
    bool: None,
    Path: "PATH",
}


def flag(field: str) -> str:
    """``batch_size`` to ``--batch-size``."""
    return "--" + field.replace("_", "-")


def _number(kind: type, value: Any) -> Any:
    """The number as Python's int or float; None for anything else."""
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        # Beyond float's range a number is larger than all that any rule allows.
        return kind(value) if abs(int(value)) < 2**1000 else math.inf
    if kind is float and isinstance(value, float | np.floating):
        return float(value)
    return None


def _path(value: Any) -> Path | None:
    if not isinstance(value, str | os.PathLike):
        return None
    text = os.fspath(value)
    return Path(text) if isinstance(text, str) and text else None


def _fits_a_file_system(path: Path) -> bool:
    try:
        parts = [os.fsencode(part) for part in path.parts]
    except UnicodeEncodeError:
        return False
    return max(map(len, parts), default=0) <= 255 and sum(map(len, parts)) < 2048


# What goes for all values of a type.
_OF_KIND: dict[type, tuple[Rule, ...]] = {
    str: (
        Rule(bool, "text that is not empty"),
        Rule(lambda text: "\0" not in text, "text without a null byte"),
    ),
    Path: (
        Rule(lambda path: "\0" not in str(path), "a path without a null byte"),
        Rule(_fits_a_file_system, "a path that a file system can hold"),
    ),
}


class Option(NamedTuple):
    """What is known of one field of a configuration."""

    field: str
    kind: type  # int, float, str, bool or Path
    optional: bool  # None means: not given
    default: Any
    help: str
    rules: tuple[Rule | Choice | Grammar, ...]
    several: bool = False  # a tuple of such values

    @property
    def metavar(self) -> str | None:
        """What stands for its value in the help."""
        for rule in self.rules:
            if isinstance(rule, Choice):
                return "|".join(rule.names)
            if isinstance(rule, Grammar):
                return rule.metavar
        return _METAVARS[self.kind]

    @property
    def type(self) -> type:
        """That of its values, once they are checked."""
        return tuple if self.several else self.kind

    def check(self, value: Any) -> Any:
        """The value in the option's type and known spelling.

        Args:
          value: anything.

        Raises:
          InputError: naming the option, the value and what is allowed.

        Example:
          >>> Option("rounds", int, True, None, "", (at_least(1),)).check("3")
          Traceback (most recent call last):
          ...
          fedsparsify_jax.errors.InputError: --rounds is '3': it must be a whole number
        """
        if value is None and self.optional:
            return None
        if not self.several:
            return self._one(value)
        if not isinstance(value, tuple | list):
            raise self.refusal(value, "a list of values")
        return tuple(dict.fromkeys(self._one(entry) for entry in value))

    def _one(self, value: Any) -> Any:
        checked = self._typed(value)
        for rule in (*_OF_KIND.get(self.kind, ()), *self.rules):
            if isinstance(rule, Rule):
                self._obey(rule, value, checked)
            elif isinstance(rule, Choice):
                checked = rule.canonical(self.field, checked)
            else:
                checked = rule.canonical(checked)
        return checked

    def _obey(self, rule: Rule, given: Any, checked: Any) -> None:
        if not rule.holds(checked):
            raise self.refusal(given, rule.allowed)
        # JAX computes in 32 bits, where 1 - 1e-9 is 1 and 1e-50 is 0.
        with np.errstate(over="ignore"):
            if self.kind is float and not rule.holds(float(np.float32(checked))):
                raise self.refusal(given, f"{rule.allowed}, in 32 bits")

    def parse(self, word: str) -> Any:
        """The value that a word of the command line stands for.

        Raises:
          InputError: if it stands for none.
        """
        try:
            value = self.kind(word)
        except ValueError:
            raise InputError(
                f"{flag(self.field)}: expected {_METAVARS[self.kind]}, not "
                f"{shown(word)}"
            ) from None
        return self.check(value)

    def refusal(self, value: Any, allowed: str) -> InputError:
        """The error for a value; ``allowed`` completes "it must be ..."."""
        return InputError(f"{flag(self.field)} is {shown(value)}: it must be {allowed}")

    def _typed(self, value: Any) -> Any:
        """The value in the option's type."""
        typed: Any = None
        if self.kind in (int, float):
            typed = _number(self.kind, value)
        elif self.kind is Path:
            typed = _path(value)
        elif isinstance(value, self.kind):
            typed = value
        if typed is None:
            raise self.refusal(value, _KINDS[self.kind])
        return typed


def _helps(cls: type) -> dict[str, str]:
    """The strings below the fields of a dataclass, which are their help."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


@functools.cache
def read(cls: Any) -> Mapping[str, Option]:
    """The options that the fields of a dataclass are, by name.

    Args:
      cls: a dataclass whose fields all have defaults.

    Example:
      >>> from fedsparsify_jax.runner.options.config import TrainConfig
      >>> read(TrainConfig)["seed"].kind, read(TrainConfig)["seed"].metavar
      (<class 'int'>, 'INT')
    """
    helps, hints = _helps(cls), hints_of(cls, include_extras=True)
    found = {}
    for field in dataclasses.fields(cls):
        hint: Any = hints[field.name]
        extras: tuple[Any, ...] = ()
        if get_origin(hint) is Annotated:
            hint, extras = hint.__origin__, hint.__metadata__
        several = get_origin(hint) is tuple
        kinds = [get_args(hint)[0] if several else hint]
        if get_origin(hint) in (Union, types.UnionType):
            kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        found[field.name] = Option(
            field.name,
            kinds[0],
            kinds[0] is not hint and not several,
            field.default,
            helps.get(field.name, ""),
            tuple(x for x in extras if isinstance(x, Rule | Choice | Grammar)),
            several,
        )
    return found


def check(config: Any) -> dict[str, Any]:
    """All values of a configuration, each checked by itself.

    Args:
      config: an instance of a dataclass that `read` reads.

    Raises:
      InputError: for the first value that is not allowed.
    """
    cls: Any = type(config)
    return {
        field: option.check(getattr(config, field))
        for field, option in read(cls).items()
    }
