"""The options of ``fedsparsify sweep``: those of ``train``, with any number of values.

``--final-sparsity 0.9,0.95`` and ``--final-sparsity 0.9 0.95`` mean the same. An option
that is not given has the value that ``train`` gives it.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import tyro

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import NOT_COMPARED, TrainConfig, option
from fedsparsify_jax.runner.options.schema import Option, at_least, read

Words = tuple[str, ...]

# Options of `train` that a sweep has no use for, or only one value of.
SINGLE = (
    "out",
    "resume",
    "allow_changes",
    "checkpoint_every",
    "keep_last",
    "keep_best",
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
_WHOLE = ("data_dir", "client_sizes", "faults")


OPTIONS = {
    field: found for field, found in read(TrainConfig).items() if field not in SINGLE
}
"""Options that may have several values."""


_SEEDS = Option(
    "seeds",
    int,
    optional=True,
    default=None,
    help="So many seeds from 0, in place of --seed.",
    rules=(at_least(1, below=2**20),),
)
_OWN: dict[str, Any] = {
    "seeds": Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT",
            help=_SEEDS.help,
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
    every, hints = read(TrainConfig), get_type_hints(TrainConfig, include_extras=True)
    fields: list[Any] = []
    for field, known in OPTIONS.items():
        hint = tyro.conf.arg(
            help=known.help, help_behavior_hint=f"(default: {known.default})"
        )
        annotated: Any = Annotated[(Words, hint, *hints[field].__metadata__)]
        fields.append((field, annotated, dataclasses.field(default=())))
    shared = {
        name: Annotated[hints[name], tyro.conf.arg(help=every[name].help)]
        for name in _AS_IN_TRAIN
    }
    for name, own in (shared | _OWN).items():
        fields.append((name, own, dataclasses.field(default=None)))
    made = dataclasses.make_dataclass("SweepConfig", fields, frozen=True)
    made.__doc__ = "Train every combination of the options' values."
    made.__module__ = __name__
    return made


SweepConfig: Any = _make()
"""What the command line gives: words for `OPTIONS`, ``seeds``, ``out`` and others."""


def _words(field: str, given: Any) -> list[str]:
    """The words that an option was given, however they were divided."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise OPTIONS[field].refusal(given, "a tuple of words")
    words = list(given)
    for word in words:
        if not isinstance(word, str):
            raise OPTIONS[field].refusal(word, "a word, as on the command line")
    if field not in _WHOLE:
        words = [word for listed in words for word in listed.split(",") if word]
    if given and not words:
        raise InputError(f"{option(field)} has no value")
    return words


def _check_single(config: Any) -> None:
    """Checks what has one value."""
    every = read(TrainConfig)
    for field in (*_AS_IN_TRAIN, "out"):
        every[field].check(getattr(config, field))
    _SEEDS.check(config.seeds)


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
    _check_single(config)
    given: dict[str, list[Any]] = {}
    for field, known in OPTIONS.items():
        words = _words(field, getattr(config, field))
        if words:
            given[field] = list(dict.fromkeys(map(known.parse, words)))
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
        given["seed"] = list(range(config.seeds))
    return given
