"""Options resolved and validated, with messages that say what would be right."""

import dataclasses
import math
from typing import Any

from fedsparsify_jax import data, models
from fedsparsify_jax.data.hub import PREFIX
from fedsparsify_jax.errors import InputError, unknown
from fedsparsify_jax.runner import defaults, distributed
from fedsparsify_jax.runner.config import PARTITIONS, TrainConfig, option
from fedsparsify_jax.runner.methods import ALGORITHMS
from fedsparsify_jax.sampling import cohort_size

_SWITCH = ("on", "off")
STORED = "stored"
"""The partition of the data set ``store``, which comes with its clients."""
_NAMES: dict[str, tuple[str, ...]] = {
    "model": models.NAMES,
    "algorithm": ALGORITHMS,
    "partition": (*PARTITIONS, STORED),
    "client_data": ("memory", "disk"),
    "optimizer_state": ("fresh", "kept"),
    "augmentation": _SWITCH,
    "cohort": ("auto", "vmap", "map"),
    "nesterov": _SWITCH,
    "schedule": ("polynomial", "linear", "cosine", "multiplicative"),
    "prunable": ("all", "kernels"),
    "vote_rule": ("authors", "strict", "none"),
    "anchor": ("global", "zero"),
    "server_optimizer": ("adam", "yogi", "momentum", "sgd"),
    "source": ("client", "cohort"),
    "freeze_zero_initialized": _SWITCH,
    "variant": ("published", "authors"),
    "pin_sparsity": _SWITCH,
    "scope": ("global", "layer", "er", "erk", "erk_feddst"),
    "allocation": ("erk", "er", "erk_feddst", "layer"),
}

_AT_LEAST = {
    "num_clients": 1,
    "train_subset": 1,
    "classes_per_client": 1,
    "rounds": 1,
    "local_epochs": 1,
    "batch_size": 1,
    "frequency": 1,
    "begin": 0,
    "fine_tune_rounds": 0,
    "fine_tune_epochs": 0,
    "prune_at": 1,
    "interval": 1,
    "checkpoint_every": 1,
    "keep_last": 1,
    "keep_best": 0,
    "evaluate_every": 1,
    "chunk_size": 1,
    "devices": 1,
    "seed": 0,
}
_ABOVE_ZERO = ("learning_rate", "alpha", "exponent", "server_learning_rate")
_BELOW_ONE = ("final_sparsity", "momentum", "initial_sparsity", "purge_share")


def _canonical(kind: str, name: str, known: tuple[str, ...]) -> str:
    """The known spelling of a name, ``-`` and ``_`` being the same."""
    spellings = {entry.replace("_", "-"): entry for entry in known}
    wanted = name.strip().lower().replace("_", "-")
    if wanted not in spellings:
        raise unknown(kind, name, known)
    return spellings[wanted]


def _dataset(name: str) -> str:
    if name.startswith(PREFIX):
        data.parse_hub_name(name)
        return name
    return _canonical("data set", name, data.NAMES)


def _refuse(field: str, value: Any, allowed: str) -> InputError:
    return InputError(f"{option(field)} is {value}: it must be {allowed}")


def _check_ranges(options: dict[str, Any]) -> None:
    given = {field: value for field, value in options.items() if value is not None}
    for field, low in _AT_LEAST.items():
        if field in given and given[field] < low:
            raise _refuse(field, given[field], f"at least {low}")
    for field in _ABOVE_ZERO:
        value = given.get(field, 1.0)
        if not (value > 0 and math.isfinite(value)):
            raise _refuse(field, value, "above 0 and finite")
    for field in _BELOW_ONE:
        if not 0 <= given[field] < 1:
            raise _refuse(field, given[field], "at least 0 and below 1")
    if not 0 <= given.get("mu", 0.0) < math.inf:
        raise _refuse("mu", given["mu"], "at least 0 and finite")
    if not 0 <= given.get("replace_share", 0.0) <= 1:
        raise _refuse("replace_share", given["replace_share"], "between 0 and 1")
    if options["seed"] >= 2**32:
        raise _refuse("seed", options["seed"], "below 2^32")


def _check_together(config: TrainConfig) -> None:
    assert config.num_clients is not None and config.rounds is not None
    try:
        cohort_size(config.num_clients, config.participation)
    except ValueError as error:
        raise InputError(f"--{error}") from error
    if config.coordinator is not None and config.out is None:
        raise InputError(
            "--coordinator needs --out DIR, on a file system that all processes see"
        )
    if config.resume and config.out is None:
        raise InputError("--resume needs --out DIR: which run is to be continued?")
    if config.allow_changes and not config.resume:
        raise InputError(
            "--allow-changes needs --resume: it is about a run to continue"
        )
    distributed.check(config.coordinator, config.num_processes, config.process_id)
    if (config.fine_tune_rounds or 0) >= config.rounds:
        raise InputError(
            f"--fine-tune-rounds is {config.fine_tune_rounds}: it must be below the "
            f"{config.rounds} rounds"
        )
    if (config.prune_at or 1) > config.rounds:
        raise InputError(
            f"--prune-at is {config.prune_at}: there are only {config.rounds} rounds"
        )
    if config.chunk_size is not None and config.cohort == "vmap":
        raise InputError("--chunk-size has no meaning with --cohort vmap: use map")
    if (config.partition == STORED) != (config.dataset == "store"):
        raise InputError(
            f"--partition {config.partition} does not go with --dataset "
            f"{config.dataset}: a store's clients, and only they, are divided already"
        )
    if config.client_sizes and config.partition not in ("iid", "value-skew"):
        raise InputError(
            f"--client-sizes goes with the partitions iid and value-skew, not with "
            f"{config.partition}"
        )


def _of_store(config: TrainConfig) -> dict[str, Any]:
    """What a store of clients settles; its clients are as they are."""
    settled: dict[str, Any] = {}
    if config.train_subset is not None:
        raise InputError("--train-subset does not go with the clients of a store")
    if config.partition == TrainConfig.partition:
        settled["partition"] = STORED
    if config.data_dir is not None:
        has = data.open_population(config.data_dir).num_clients
        if config.num_clients not in (None, has):
            raise InputError(
                f"--num-clients is {config.num_clients}: the store {config.data_dir} "
                f"has {has} clients"
            )
        settled["num_clients"] = has
    return settled


def client_sizes(text: str) -> list[int]:
    """Proportions of client sizes from ``--client-sizes``.

    >>> client_sizes("3,2,1")
    [3, 2, 1]
    """
    if text in data.BRAIN_AGE_SIZES:
        return list(data.BRAIN_AGE_SIZES[text])
    try:
        return [int(size) for size in text.split(",")]
    except ValueError:
        raise InputError(
            f"--client-sizes is {text!r}: expected whole numbers such as 30,20,10, or "
            f"one of {', '.join(data.BRAIN_AGE_SIZES)}"
        ) from None


def resolve(config: TrainConfig) -> TrainConfig:
    """Fills in the defaults that depend on the data set and checks every value.

    Raises:
      InputError: naming the option, its value and what is allowed.

    Example:
      >>> resolve(TrainConfig(dataset="fashion_mnist")).rounds
      200
    """
    dataset = _dataset(config.dataset)
    changes: dict[str, Any] = {"dataset": dataset}
    if config.client_sizes is not None and config.num_clients is None:
        changes["num_clients"] = len(client_sizes(config.client_sizes))
    if dataset == "store":
        changes |= _of_store(config)
    for field, value in defaults.of(dataset).items():
        if getattr(config, field) is None:
            changes.setdefault(field, value)
    for field, known in _NAMES.items():
        name = changes.get(field, getattr(config, field))
        if name is not None:
            changes[field] = _canonical(field.replace("_", " "), name, known)
    resolved = dataclasses.replace(config, **changes)
    _check_ranges(dataclasses.asdict(resolved))
    _check_together(resolved)
    return resolved
