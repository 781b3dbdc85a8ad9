"""The options of ``fedsparsify sweep``: those of ``train``, with any number of values.

``--final-sparsity 0.9,0.95`` and ``--final-sparsity 0.9 0.95`` mean the same. An option
that is not given has the value that ``train`` gives it.
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.config import NOT_COMPARED, TrainConfig, option

Words = tuple[str, ...]

# Options of `train` that a sweep has no use for, or only one value of.
SINGLE = (
    "out",
    "resume",
    "checkpoint_every",
    "show_partition",
    "verbose",
    "logger",
    "devices",
    "compilation_cache",
    # Examples are in memory, training is dense, and one process does it all.
    "client_data",
    "sparse_training",
    "coordinator",
    "num_processes",
    "process_id",
)
# Of these, the ones that a sweep takes as `train` does.
_AS_IN_TRAIN = ("devices", "compilation_cache")
# Values of these have commas of their own: they are told apart by spaces alone.
_WHOLE = ("data_dir", "client_sizes")


def _helps() -> dict[str, str]:
    """The strings below the fields of `TrainConfig`, which are their help."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(TrainConfig)))
    body = tree.body[0].body  # type: ignore[attr-defined]
    found = {}
    for field, text in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(ast.literal_eval(text.value).split())
    return found


def _kinds() -> dict[str, type]:
    """The type of every option's values: int, float, str or Path."""
    kinds = {}
    for field, hint in get_type_hints(TrainConfig).items():
        choices = [hint]
        if get_origin(hint) in (Union, types.UnionType):
            choices = [kind for kind in get_args(hint) if kind is not type(None)]
        kinds[field] = choices[0]
    return kinds


KINDS = {field: kind for field, kind in _kinds().items() if field not in SINGLE}
"""Options that may have several values, and the type of these."""

_METAVARS = {int: "INT", float: "FLOAT", str: "NAME", Path: "PATH"}


_OWN: dict[str, Any] = {
    "seeds": Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT",
            help="So many seeds from 0, in place of --seed.",
            help_behavior_hint="(optional)",
        ),
    ],
    "out": Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR",
            help="Directory to write, or to continue.",
            help_behavior_hint="(default: one in runs/ that the options name)",
        ),
    ],
}


def _make() -> type:
    """`SweepConfig`: for every field of `TrainConfig` one that takes many words."""
    helps, hints = _helps(), get_type_hints(TrainConfig, include_extras=True)
    fields: list[Any] = []
    for field in dataclasses.fields(TrainConfig):
        if field.name not in KINDS:
            continue
        shown: list[Any] = [
            tyro.conf.arg(
                metavar=_METAVARS[KINDS[field.name]],
                help=helps[field.name],
                help_behavior_hint=f"(default: {field.default})",
            )
        ]
        if get_origin(hints[field.name]) is Annotated:
            shown.extend(hints[field.name].__metadata__)
        annotated: Any = Annotated[(Words, *shown)]
        fields.append((field.name, annotated, dataclasses.field(default=())))
    shared = {
        name: Annotated[hints[name], tyro.conf.arg(help=helps[name])]
        for name in _AS_IN_TRAIN
    }
    for name, own in (shared | _OWN).items():
        fields.append((name, own, dataclasses.field(default=None)))
    made = dataclasses.make_dataclass("SweepConfig", fields, frozen=True)
    made.__doc__ = "Train every combination of the options' values."
    made.__module__ = __name__
    return made


SweepConfig: Any = _make()
"""What the command line gives: words for the options in `KINDS`, ``seeds``, ``out``."""


def _value(field: str, word: str) -> Any:
    kind = KINDS[field]
    try:
        return kind(word)
    except ValueError:
        raise InputError(
            f"{option(field)}: expected {_METAVARS[kind]}, not {word!r}"
        ) from None


def values(config: Any) -> dict[str, list[Any]]:
    """The values of every option that was given, in order and without repeats.

    Args:
      config: a `SweepConfig`.

    Raises:
      InputError: for words that are no values of their option.

    Example:
      >>> values(SweepConfig(final_sparsity=("0.9,0.95",), seeds=2))
      {'final_sparsity': [0.9, 0.95], 'seed': [0, 1]}
    """
    given: dict[str, list[Any]] = {}
    for field in KINDS:
        words = getattr(config, field)
        if field not in _WHOLE:
            words = [word for listed in words for word in listed.split(",") if word]
        if words:
            given[field] = list(dict.fromkeys(_value(field, word) for word in words))
        elif getattr(config, field):
            raise InputError(f"{option(field)} has no value")
        if field in NOT_COMPARED and len(given.get(field, ())) > 1:
            raise InputError(
                f"{option(field)} does not change what is computed: give one value"
            )
    if "store" in given.get("dataset", ()):
        raise InputError(
            "--dataset store is for populations that do not fit into memory, where a "
            "sweep has all examples: use train"
        )
    if config.seeds is not None:
        if "seed" in given:
            raise InputError("--seeds and --seed exclude each other: give one of them")
        if config.seeds < 1:
            raise InputError(f"--seeds is {config.seeds}: it must be at least 1")
        given["seed"] = list(range(config.seeds))
    return given
