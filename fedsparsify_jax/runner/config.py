"""What a run is told: the options of ``fedsparsify train`` and their checks."""

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import tyro

from fedsparsify_jax import data, models
from fedsparsify_jax.errors import InputError, unknown
from fedsparsify_jax.rounds import cohort_size

ALGORITHMS = ("fedavg", "fedsparsify-global", "fedsparsify-local")
PARTITIONS = ("iid", "label-shards", "dirichlet", "quantity-skew")

# What the paper uses; digits and the user's own arrays have no paper to follow.
_BY_DATASET: dict[str, dict[str, Any]] = {
    "digits": {"rounds": 50, "learning_rate": 0.1},
    "fashion_mnist": {"rounds": 200, "learning_rate": 0.02},
    "npz": {"rounds": 50, "learning_rate": 0.05},
}


def _hint(field: str) -> str:
    values = (f"{name} {row[field]}" for name, row in _BY_DATASET.items())
    return f"(default: {', '.join(values)})"


def _choice(names: Iterable[str]) -> Any:
    return tyro.conf.arg(metavar="|".join(names))


def _by_dataset(field: str, metavar: str) -> Any:
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=_hint(field))


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Train a federated model and write a run directory."""

    dataset: Annotated[str, _choice(data.NAMES)] = "digits"
    """Data set. digits is embedded; npz is your own arrays."""
    data_dir: Annotated[
        Path | None, tyro.conf.arg(metavar="PATH", help_behavior_hint="(optional)")
    ] = None
    """Where the files are: the directory of FashionMNIST's IDX files, or your npz."""
    model: Annotated[str, _choice(models.NAMES)] = "mlp"
    """Network."""
    algorithm: Annotated[str, _choice(ALGORITHMS)] = "fedsparsify-global"
    """Federated algorithm."""

    num_clients: int = 10
    """Clients in the federation."""
    participation: float = 1.0
    """Share of the clients that takes part in a round, above 0 and at most 1."""
    partition: Annotated[str, _choice(PARTITIONS)] = "iid"
    """How the training examples are divided among the clients."""
    classes_per_client: int = 2
    """Classes each client holds, for label-shards."""
    alpha: float = 0.5
    """Concentration for dirichlet and quantity-skew; smaller is more uneven."""

    rounds: Annotated[int | None, _by_dataset("rounds", "INT")] = None
    """Federation rounds T; the final sparsity is reached in the last one."""
    local_epochs: int = 4
    """Passes over its data that a client makes in a round."""
    batch_size: int = 32
    """Examples in a client's batch."""
    learning_rate: Annotated[float | None, _by_dataset("learning_rate", "FLOAT")] = None
    """Learning rate of the clients' SGD."""
    momentum: float = 0.0
    """Momentum of the clients' SGD, at least 0 and below 1."""
    optimizer_state: Annotated[str, _choice(("fresh", "kept"))] = "fresh"
    """Whether momentum starts at zero every round or is kept for each client."""

    final_sparsity: float = 0.9
    """Share of the parameters pruned in the end, at least 0 and below 1."""
    exponent: float = 3.0
    """Exponent of the sparsity schedule; larger prunes earlier."""
    frequency: int = 1
    """Rounds between purges."""
    vote_rule: Annotated[str, _choice(("authors", "strict"))] = "authors"
    """Votes that keep a weight in fedsparsify-local: floor(K/2), or more than K/2."""

    seed: int = 0
    """Seed of the partition, the initial model and the training."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR", help_behavior_hint="(default: a new one in runs/)"
        ),
    ] = None
    """Run directory to write."""
    resume: bool = False
    """Continue the run in --out, or start it when there is none."""
    checkpoint_every: int = 10
    """Rounds between checkpoints; the last round is always saved."""
    show_partition: bool = False
    """Print how many examples of each class every client holds."""
    verbose: bool = False
    """Also print devices, versions, and how often the round was traced and compiled."""


# Options that do not change what is computed: free to differ on resume.
NOT_COMPARED = ("out", "resume", "checkpoint_every", "show_partition", "verbose")


def option(field: str) -> str:
    """``batch_size`` to ``--batch-size``."""
    return "--" + field.replace("_", "-")


def _canonical(kind: str, name: str, known: tuple[str, ...]) -> str:
    """The known spelling of a name, ``-`` and ``_`` being the same."""
    spellings = {entry.replace("_", "-"): entry for entry in known}
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in spellings:
        raise unknown(kind, name, known)
    return spellings[wanted]


def _check_range(config: TrainConfig) -> None:
    at_least = {
        "num_clients": 1,
        "classes_per_client": 1,
        "rounds": 1,
        "local_epochs": 1,
        "batch_size": 1,
        "frequency": 1,
        "checkpoint_every": 1,
        "seed": 0,
    }
    for field, low in at_least.items():
        value = getattr(config, field)
        if value < low:
            raise InputError(f"{option(field)} is {value}: it must be at least {low}")
    for field in ("learning_rate", "alpha", "exponent"):
        value = getattr(config, field)
        if not (value > 0 and math.isfinite(value)):
            raise InputError(
                f"{option(field)} is {value}: it must be above 0 and finite"
            )
    for field in ("final_sparsity", "momentum"):
        value = getattr(config, field)
        if not 0 <= value < 1:
            raise InputError(
                f"{option(field)} is {value}: it must be at least 0 and below 1"
            )
    try:
        cohort_size(config.num_clients, config.participation)
    except ValueError as error:
        raise InputError(f"--{error}") from error
    if config.resume and config.out is None:
        raise InputError("--resume needs --out DIR: which run is to be continued?")
    if config.seed >= 2**32:
        raise InputError(f"--seed is {config.seed}: it must be below 2^32")


def resolve(config: TrainConfig) -> TrainConfig:
    """Fills in the defaults that depend on the data set and checks every value.

    Raises:
      InputError: naming the option, its value and what is allowed.

    Example:
      >>> resolve(TrainConfig(dataset="fashion_mnist")).rounds
      200
    """
    dataset = _canonical("data set", config.dataset, data.NAMES)
    changes: dict[str, Any] = {
        field: value
        for field, value in _BY_DATASET[dataset].items()
        if getattr(config, field) is None
    }
    names = {
        "model": ("model", models.NAMES),
        "algorithm": ("algorithm", ALGORITHMS),
        "partition": ("partition", PARTITIONS),
        "optimizer_state": ("optimizer state", ("fresh", "kept")),
        "vote_rule": ("vote rule", ("authors", "strict")),
    }
    for field, (kind, known) in names.items():
        changes[field] = _canonical(kind, getattr(config, field), known)
    resolved = dataclasses.replace(config, dataset=dataset, **changes)
    _check_range(resolved)
    return resolved


def to_json(config: TrainConfig) -> dict[str, Any]:
    """The configuration as JSON values, option by option."""
    return {
        field: str(value) if isinstance(value, Path) else value
        for field, value in dataclasses.asdict(config).items()
    }
