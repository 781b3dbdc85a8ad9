"""One field says everything of an option, and one place applies it.

A field is ``rounds: Annotated[int, at_least(1), CHANGEABLE] = 50``, and its help is the
string below. Beside the type stand the `Rule`, `Choice` or `Grammar` of its values, its
traits, and the `Heading` of the fields from there on. `read` collects all of it as an
`Option`. The command line, sweeps, configurations made in Python and files go through
`Option.check`, and every list of options is derived from a `Trait`.
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin
from typing import get_type_hints as hints_of

import numpy as np

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.runner.options.rules import Choice, Grammar, Rule, flag


class Trait(NamedTuple):
    """A fact about an option that some part of the shell asks for."""

    meaning: str
    implied: tuple["Trait", ...] = ()


TRACED = Trait("trials of one program may differ in it: it enters as a traced number")
ABSENT_AT_ZERO = Trait("at 0 it leaves its part of the program out")
CHANGEABLE = Trait("a resumed run may change it: the state fits, the clients stay")
NEUTRAL = Trait("it does not change what is computed")
TRAIN_ONLY = Trait("a sweep has no use for it", (NEUTRAL,))
ONE_VALUE = Trait("a sweep takes one value of it, as train does", (NEUTRAL,))
WITH_COMMAS = Trait("its values may have commas: only spaces divide a sweep's")
OF_ONE_START = Trait("it says where and how one start runs, and nothing of the next")
BY_DATASET = Trait("its default depends on the data set")
POSITIONAL = Trait("the command line takes its values without a name before them")


class Heading(NamedTuple):
    """The title of the options from this field on, for the help."""

    title: str


class Keyword(NamedTuple):
    """A keyword of builders of algorithms, which the option is for."""

    name: str = ""  # the field's own if empty


class Shown(NamedTuple):
    """Text of the help in place of what type and default say."""

    metavar: str | None = None
    hint: str | None = None  # in brackets behind the help
    short: str | None = None  # another name on the command line, such as -o


class _Kind(NamedTuple):
    name: str  # completes "it must be ..."
    metavar: str | None


_KINDS: dict[type, _Kind] = {
    int: _Kind("a whole number", "INT"),
    float: _Kind("a number", "FLOAT"),
    str: _Kind("text", "NAME"),
    bool: _Kind("True or False", None),
    Path: _Kind("a path", "PATH"),
}


def _number(kind: type, value: Any) -> Any:
    """Returns the number as Python's int or float; None for anything else."""
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


# Rules of all values of a type.
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
    """Everything that one field of a configuration says."""

    field: str
    kind: type  # int, float, str, bool or Path
    default: Any
    help: str = ""
    rules: tuple[Rule | Choice | Grammar, ...] = ()
    optional: bool = False  # None means: not set
    several: bool = False  # a tuple of such values
    traits: frozenset[Trait] = frozenset()
    keyword: str | None = None  # of the algorithms' builders
    shown: Shown = Shown()
    group: str = "Options"
    raw: bool = False  # words of it are taken as they are: a sweep reads them

    @property
    def metavar(self) -> str | None:
        """Returns the word for its value in the help."""
        if self.shown.metavar is not None:
            return self.shown.metavar
        for rule in self.rules:
            if isinstance(rule, Choice):
                return "|".join(rule.names)
            if isinstance(rule, Grammar):
                return rule.metavar
        return _KINDS[self.kind].metavar

    def check(self, value: Any) -> Any:
        """Returns the value in the option's type and its usual spelling.

        Args:
          value: anything.

        Raises:
          InputError: naming the option, the value and what is allowed.

        Example:
          >>> Option("rounds", int, 50).check("3")
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
        if self.default and not value:
            raise InputError(f"{flag(self.field)} is empty: give at least one value")
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

    def _obey(self, rule: Rule, value: Any, checked: Any) -> None:
        if not rule.holds(checked):
            raise self.refusal(value, rule.allowed)
        # JAX computes in 32 bits, where 1 - 1e-9 is 1 and 1e-50 is 0.
        with np.errstate(over="ignore"):
            if self.kind is float and not rule.holds(float(np.float32(checked))):
                raise self.refusal(value, f"{rule.allowed}, in 32 bits")

    def parse(self, words: bool | str | Sequence[str]) -> Any:
        """Returns the value that a switch, a word or words of a command line stand for.

        Raises:
          InputError: if they stand for none.
        """
        if isinstance(words, bool) or self.raw:
            return words
        if isinstance(words, str):
            return self.check(self._converted(words))
        return self.check(tuple(map(self._converted, words)))

    def _converted(self, word: str) -> Any:
        if self.kind is bool:
            raise self.refusal(word, _KINDS[bool].name)
        try:
            return self.kind(word)
        except ValueError:
            raise InputError(
                f"{flag(self.field)}: expected {_KINDS[self.kind].metavar}, not "
                f"{shown(word)}"
            ) from None

    def refusal(self, value: Any, allowed: str) -> InputError:
        """Returns the error for a value; ``allowed`` completes "it must be ..."."""
        return InputError(f"{flag(self.field)} is {shown(value)}: it must be {allowed}")

    def _typed(self, value: Any) -> Any:
        """Returns the value in the option's type."""
        typed: Any = None
        if self.kind in (int, float):
            typed = _number(self.kind, value)
        elif self.kind is Path:
            typed = _path(value)
        elif isinstance(value, self.kind):
            typed = value
        if typed is None:
            raise self.refusal(value, _KINDS[self.kind].name)
        return typed


def _texts(cls: type) -> dict[str, str]:
    """Returns the strings below the fields of a dataclass, which are their help."""
    if not dataclasses.is_dataclass(cls):
        return {}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    of_bases = [_texts(base) for base in cls.__bases__]
    return {k: text for texts in of_bases for k, text in texts.items()} | {
        field.target.id: " ".join(ast.literal_eval(text.value).split())
        for field, text in itertools.pairwise(tree.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr)
    }


def _option(field: str, hint: Any, default: Any, **shared: Any) -> Option:
    """Returns what one field's annotation says."""
    extras: tuple[Any, ...] = ()
    if get_origin(hint) is Annotated:
        hint, extras = hint.__origin__, hint.__metadata__
    optional = get_origin(hint) in (Union, types.UnionType)
    if optional:
        (hint,) = (kind for kind in get_args(hint) if kind is not type(None))
    several = get_origin(hint) is tuple
    if several:
        hint = get_args(hint)[0]
    if get_origin(hint) is Literal:
        hint, extras = str, (*extras, Choice(get_args(hint)))

    def of(kind: Any) -> list[Any]:
        return [extra for extra in extras if isinstance(extra, kind)]

    keywords = [extra.name or field for extra in of(Keyword)]
    return Option(
        field=field,
        kind=hint,
        default=default,
        rules=tuple(of((Rule, Choice, Grammar))),
        optional=optional,
        several=several,
        traits=frozenset(t for trait in of(Trait) for t in (trait, *trait.implied)),
        keyword=keywords[0] if keywords else None,
        shown=(*of(Shown), Shown())[0],
        **shared,
    )


@functools.cache
def read(cls: Any) -> Mapping[str, Option]:
    """Returns the options that the fields of a dataclass are, by name.

    Args:
      cls: a dataclass whose fields all have defaults.

    Example:
      >>> from fedsparsify_jax.runner.options.config import TrainConfig
      >>> read(TrainConfig)["seed"].kind, read(TrainConfig)["seed"].metavar
      (<class 'int'>, 'INT')
    """
    hints, texts, group = hints_of(cls, include_extras=True), _texts(cls), "Options"
    options = {}
    # A class's fields stand before those of its bases.
    firsts = inspect.get_annotations(cls)
    for field in sorted(dataclasses.fields(cls), key=lambda f: f.name not in firsts):
        hint, text = hints[field.name], texts.get(field.name, "")
        for extra in getattr(hint, "__metadata__", ()):
            group = extra.title if isinstance(extra, Heading) else group
        options[field.name] = _option(
            field.name, hint, field.default, help=text, group=group
        )
    return options


def check(config: Any) -> dict[str, Any]:
    """Returns all values of a configuration, each checked by itself.

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
