"""The options of ``fedsparsify sweep``: those of ``train``, with any number of values.

``--final-sparsity 0.9,0.95`` and ``--final-sparsity 0.9 0.95`` mean the same. An option
that is not set has the value that ``train`` gives it.
"""

import dataclasses
from collections.abc import Iterable
from typing import Any

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.runner.options import sharing
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.rules import at_least, flag
from fedsparsify_jax.runner.options.schema import (
    NEUTRAL,
    ONE_VALUE,
    TRAIN_ONLY,
    WITH_COMMAS,
    Option,
    Shown,
    read,
)

OPTIONS = {
    field: option
    for field, option in read(TrainConfig).items()
    if not option.traits & {TRAIN_ONLY, ONE_VALUE}
}
"""Options that may have several values."""

_OUT = read(TrainConfig)["out"]._replace(
    help="Directory to write, or to continue.",
    shown=Shown(metavar="DIR", hint="default: one in runs/ that the options name"),
)
_SEEDS = Option(
    field="seeds",
    kind=int,
    default=None,
    help="So many seeds from 0, in place of --seed.",
    rules=(at_least(1, below=2**20),),
    optional=True,
    group=OPTIONS["seed"].group,
)
_SINGLE = {
    field: option
    for field, option in read(TrainConfig).items()
    if ONE_VALUE in option.traits
} | {"out": _OUT, "seeds": _SEEDS}
_SHARING = read(sharing.SharingOptions)

COMMAND_LINE = {
    field: option._replace(several=True, raw=True) for field, option in OPTIONS.items()
} | {**_SINGLE, **_SHARING}
"""Options as the command line and files give them: several words, or one value."""

SweepConfig: Any = dataclasses.make_dataclass(
    "SweepConfig",
    [(field, tuple[str, ...], dataclasses.field(default=())) for field in OPTIONS]
    + [(field, Any, dataclasses.field(default=None)) for field in _SINGLE]
    + [(o.field, Any, dataclasses.field(default=o.default)) for o in _SHARING.values()],
    frozen=True,
)
SweepConfig.__module__ = __name__
SweepConfig.__doc__ = """\
Train every combination of the options' values, as few compiled programs.

Options are those of train, each with one value or more:
--seeds 3 --final-sparsity 0.9,0.95. Every run has a directory as train
writes it. The same command started again goes on with what is not finished.
"""


def _words(field: str, value: Any) -> list[str]:
    """Returns the words of an option, however they were divided."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise OPTIONS[field].refusal(value, "a tuple of words")
    words = list(value)
    for word in words:
        if not isinstance(word, str):
            raise OPTIONS[field].refusal(word, "a word, as on the command line")
    if WITH_COMMAS not in OPTIONS[field].traits:
        words = [part.strip() for word in words for part in word.split(",")]
    if not all(words):
        raise InputError(
            f"{flag(field)} is {shown(','.join(words))}: there is no value before or "
            "after a comma"
        )
    return words


def _without_repeats(field: str, parsed: list[Any]) -> list[Any]:
    for position, value in enumerate(parsed):
        if value in parsed[:position]:
            raise InputError(
                f"{flag(field)} has {shown(value)} twice: give every value once (for "
                "repetitions there is --seeds)"
            )
    return parsed


def values(config: Any) -> dict[str, list[Any]]:
    """Returns the values of every option that has some, in order.

    Args:
      config: a `SweepConfig`.

    Raises:
      InputError: for words that are no values of their option.

    Example:
      >>> values(SweepConfig(final_sparsity=("0.9,0.95",), seeds=2))
      {'final_sparsity': [0.9, 0.95], 'seed': [0, 1]}
    """
    for field, option in {**_SINGLE, **_SHARING}.items():
        option.check(getattr(config, field))
    sharing.check(config.share, config.launcher, config.workers, config.launcher_option)
    axes: dict[str, list[Any]] = {}
    for field, option in OPTIONS.items():
        words = _words(field, getattr(config, field))
        if words:
            axes[field] = _without_repeats(field, list(map(option.parse, words)))
        if NEUTRAL in option.traits and len(axes.get(field, ())) > 1:
            raise InputError(
                f"{flag(field)} does not change what is computed: give one value"
            )
    if "store" in axes.get("dataset", ()):
        raise InputError(
            "--dataset store is for populations that do not fit into memory, where a "
            "sweep has all examples: use train"
        )
    if config.seeds is not None:
        if "seed" in axes:
            raise InputError("--seeds and --seed exclude each other: give one of them")
        axes["seed"] = list(range(config.seeds))
    return axes
