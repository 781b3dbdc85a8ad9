"""From lists of values to cells, and from cells to groups that share one program."""

import dataclasses
import hashlib
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.config import NOT_COMPARED, TrainConfig
from fedsparsify_jax.runner.options.registry import unused
from fedsparsify_jax.runner.options.resolve import resolve

TRACED = (
    "learning_rate",
    "momentum",
    "final_sparsity",
    "exponent",
    "begin",
    "initial_sparsity",
    "purge_share",
    "mu",
    "server_learning_rate",
    "prune_at",
    "replace_share",
    "assumed_attackers",
    "clip_norm",
    "attackers",
    "attack_scale",
    "server_ema",
)
"""Options that may differ within a program: they enter it as traced numbers."""

# At 0 these leave their part of the program out altogether.
_ABSENT_AT_ZERO = ("momentum", "mu")

_MOST = 100_000  # runs of a sweep: a directory each
_LONGEST = 200  # letters of a directory's name; file systems allow 255 bytes


class Cell(NamedTuple):
    """One run of a sweep: exactly what ``fedsparsify train`` would do."""

    config: TrainConfig  # resolved; without a directory
    varied: dict[str, Any]  # the options with several values that it has a use for

    @property
    def name(self) -> str:
        """Its directory's name, from what sets it apart."""
        parts = (f"{field}={value}" for field, value in self.varied.items())
        said = "_".join(parts) or "run"
        name = re.sub(r"[^\w.=+-]", "-", said)[:_LONGEST]
        if name == said:
            return name
        return f"{name}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"

    @property
    def setting(self) -> dict[str, Any]:
        """What sets it apart besides the seed: cells that agree are repetitions."""
        return {field: value for field, value in self.varied.items() if field != "seed"}


def _identity(config: TrainConfig) -> tuple[tuple[str, Any], ...]:
    options = dataclasses.asdict(config).items()
    return tuple((name, value) for name, value in options if name not in NOT_COMPARED)


def cells(given: Mapping[str, Sequence[Any]]) -> list[Cell]:
    """Every combination of the values, seeds innermost.

    Options that a combination's algorithm has no use for are set back to their
    defaults, so that FedAvg, say, is not trained once for every sparsity.

    Args:
      given: options to their values, as from `sweep_config.values`.

    Raises:
      InputError: for a combination that `train` would refuse too.

    Example:
      >>> grid = {"algorithm": ["fedavg", "fedprox"], "mu": [0.1, 1.0]}
      >>> for cell in cells(grid):
      ...     print(cell.name)
      algorithm=fedavg
      algorithm=fedprox_mu=0.1
      algorithm=fedprox_mu=1.0
    """
    fields = sorted(given, key=lambda field: field == "seed")
    several = [field for field in fields if len(given[field]) > 1]
    combinations = math.prod(len(given[field]) for field in fields)
    if combinations > _MOST:
        raise InputError(
            f"the sweep's options have {combinations:,} combinations: at most "
            f"{_MOST:,} are trained at a time"
        )
    found: dict[Any, Cell] = {}
    for combination in itertools.product(*(given[field] for field in fields)):
        options = dict(zip(fields, combination, strict=True))
        config = resolve(TrainConfig(**options))
        untouched = dataclasses.asdict(resolve(TrainConfig(dataset=config.dataset)))
        idle = unused(dataclasses.asdict(config), untouched)
        idle = [field for field in idle if field in several]
        config = dataclasses.replace(
            config, **{field: untouched[field] for field in idle}
        )
        varied = {
            field: getattr(config, field) for field in several if field not in idle
        }
        found.setdefault(_identity(config), Cell(config, varied))
    return list(found.values())


def _examples_by_seed(config: TrainConfig) -> bool:
    """Whether the seed decides which examples are there to be divided."""
    return config.train_subset is not None or config.validation_fraction > 0


def _program(config: TrainConfig) -> tuple[Any, ...]:
    """What two cells must agree in to share a program; hashable."""
    parts: list[Any] = []
    for field, value in _identity(config):
        if field in TRACED:
            absent = field in _ABSENT_AT_ZERO and value == 0
            parts.append((field, value is None or absent))
        elif field != "seed" or _examples_by_seed(config):
            parts.append((field, value))
    return tuple(parts)


def groups(every: Sequence[Cell]) -> list[list[Cell]]:
    """The cells by program, in order of first appearance.

    >>> grid = {"momentum": [0.0, 0.5, 0.9], "seed": [0, 1]}
    >>> [len(group) for group in groups(cells(grid))]
    [2, 4]
    """
    found: dict[Any, list[Cell]] = {}
    for cell in every:
        found.setdefault(_program(cell.config), []).append(cell)
    return list(found.values())


def traced(group: Sequence[Cell]) -> dict[str, list[float]]:
    """The traced options in which a group's cells differ, a value a cell.

    What they agree in stays a constant of the program.

    >>> traced(cells({"final_sparsity": [0.8, 0.9], "learning_rate": [0.1]}))
    {'final_sparsity': [0.8, 0.9]}
    """
    columns = {
        field: [getattr(cell.config, field) for cell in group] for field in TRACED
    }
    return {name: column for name, column in columns.items() if len(set(column)) > 1}
