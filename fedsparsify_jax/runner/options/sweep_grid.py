"""From lists of values to trials, and from trials to groups that share one program."""

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import NOT_COMPARED, having
from fedsparsify_jax.runner.options.registry import unused
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.schema import ABSENT_AT_ZERO, TRACED
from fedsparsify_jax.runner.options.sharing import Share

_MOST = 100_000  # trials of a sweep: a directory each
_PIECE = 200  # trials that a process claims at once; each takes an open file
_LONGEST = 200  # letters of a directory's name; file systems allow 255 bytes


class Trial(NamedTuple):
    """One run of a sweep: exactly what ``fedsparsify train`` would do."""

    config: TrainConfig  # resolved; without a directory
    varied: dict[str, Any]  # the options with several values that it has a use for

    @property
    def name(self) -> str:
        """Returns its directory's name, from what sets it apart."""
        parts = (f"{field}={value}" for field, value in self.varied.items())
        text = "_".join(parts) or "run"
        name = re.sub(r"[^\w.=+-]", "-", text)[:_LONGEST]
        if name == text:
            return name
        return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    @property
    def setting(self) -> dict[str, Any]:
        """Returns varied options but the seed: trials that agree are repetitions."""
        return {field: value for field, value in self.varied.items() if field != "seed"}


def _identity(config: TrainConfig) -> tuple[tuple[str, Any], ...]:
    options = dataclasses.asdict(config).items()
    return tuple((name, value) for name, value in options if name not in NOT_COMPARED)


def _trial(options: Mapping[str, Any], several: Sequence[str]) -> Trial:
    """Returns the trial of some options; idle ones have their defaults in it."""
    config = resolve(TrainConfig(**options))
    untouched = dataclasses.asdict(resolve(TrainConfig(dataset=config.dataset)))
    idle = {*unused(dataclasses.asdict(config), untouched)} & {*several}
    config = dataclasses.replace(config, **{field: untouched[field] for field in idle})
    varied = {field: getattr(config, field) for field in several if field not in idle}
    return Trial(config, varied)


def trials(axes: Mapping[str, Sequence[Any]]) -> list[Trial]:
    """Returns every combination of the values, seeds innermost.

    Options that a combination's algorithm has no use for are set back to their
    defaults, so that FedAvg, say, is not trained once for every sparsity.

    Args:
      axes: options to their values, as from `sweep_config.values`.

    Raises:
      InputError: for a combination that `train` would refuse too.

    Example:
      >>> axes = {"algorithm": ["fedavg", "fedprox"], "mu": [0.1, 1.0]}
      >>> for trial in trials(axes):
      ...     print(trial.name)
      algorithm=fedavg
      algorithm=fedprox_mu=0.1
      algorithm=fedprox_mu=1.0
    """
    fields = sorted(axes, key=lambda field: field == "seed")
    several = [field for field in fields if len(axes[field]) > 1]
    combinations = math.prod(len(axes[field]) for field in fields)
    if combinations > _MOST:
        raise InputError(
            f"the sweep's options have {combinations:,} combinations: at most "
            f"{_MOST:,} are trained at a time"
        )
    by_identity: dict[Any, Trial] = {}
    for combination in itertools.product(*(axes[field] for field in fields)):
        trial = _trial(dict(zip(fields, combination, strict=True)), several)
        by_identity.setdefault(_identity(trial.config), trial)
    return list(by_identity.values())


def chooses_examples(config: TrainConfig) -> bool:
    """Returns whether the seed decides which examples are there to be divided."""
    if config.split_by is not None:
        return True
    return config.train_subset is not None or config.validation_fraction > 0


def _program(config: TrainConfig) -> tuple[Any, ...]:
    """Returns what two trials must agree in to share a program; hashable."""
    traced, absent_at_zero = having(TRACED), having(ABSENT_AT_ZERO)
    parts: list[Any] = []
    for field, value in _identity(config):
        if field in traced:
            absent = field in absent_at_zero and value == 0
            parts.append((field, value is None or absent))
        elif field != "seed" or chooses_examples(config):
            parts.append((field, value))
    return tuple(parts)


def program_groups(every: Sequence[Trial]) -> list[list[Trial]]:
    """Returns the trials by program, in order of first appearance.

    >>> axes = {"momentum": [0.0, 0.5, 0.9], "seed": [0, 1]}
    >>> [len(group) for group in program_groups(trials(axes))]
    [2, 4]
    """
    by_program: dict[Any, list[Trial]] = {}
    for trial in every:
        by_program.setdefault(_program(trial.config), []).append(trial)
    return list(by_program.values())


def pieces(groups: Sequence[Sequence[Trial]], share: Share) -> list[list[Trial]]:
    """Returns program groups cut for several processes, in the order of one of them.

    All processes have the same pieces, but begin in different places: so they rarely
    want the same one, and together come to all of them.

    Args:
      groups: as from `program_groups`.
      share: which process of how many.

    Example:
      >>> every = trials({"momentum": [0.0, 0.9], "seed": [0, 1, 2]})
      >>> cut = pieces(program_groups(every), Share(1, 4))
      >>> [[trial.name for trial in piece] for piece in cut][:2]
      [['momentum=0.0_seed=2'], ['momentum=0.9_seed=0', 'momentum=0.9_seed=1']]
    """
    cut: list[list[Trial]] = []
    for group in groups:
        number = max(-(-share.of // len(groups)), -(-len(group) // _PIECE))
        length = -(-len(group) // number)
        cut += [list(group[i : i + length]) for i in range(0, len(group), length)]
    first = share.number * len(cut) // share.of
    return cut[first:] + cut[:first]


def traced(group: Sequence[Trial]) -> dict[str, list[float]]:
    """Returns the traced options in which a group's trials differ, a value a trial.

    What they agree in stays a constant of the program.

    >>> traced(trials({"final_sparsity": [0.8, 0.9], "learning_rate": [0.1]}))
    {'final_sparsity': [0.8, 0.9]}
    """
    axes = {
        field: [getattr(trial.config, field) for trial in group]
        for field in having(TRACED)
    }
    return {name: axis for name, axis in axes.items() if len(set(axis)) > 1}
