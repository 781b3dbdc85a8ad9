"""The lines that a run begins with: what is going to be trained, and warnings."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax

from fedsparsify_jax import data
from fedsparsify_jax.errors import counted
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.registry import unused
from fedsparsify_jax.runner.options.resolve import resolve
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.programs.federation import Federation
from fedsparsify_jax.runner.programs.natural import said


def _understood(dataset: data.Dataset) -> str:
    """Returns how the user's arrays are read: what is scaled, and what is learnt."""
    x, scale = dataset.train.x, dataset.normalization.std
    treated = "taken as they are" if scale == 1 else f"divided by {scale:g}"
    learnt = f"{dataset.num_classes} classes"
    if dataset.task == "regression":
        learnt = "numbers (regression; for classes save them as integers)"
    return f"inputs from {x.min():g} to {x.max():g} are {treated}; targets are {learnt}"


def described(config: TrainConfig, federation: Federation) -> Iterator[Any]:
    """Yields what is going to be trained, line by line, and its warnings."""
    sizes = [len(part) for part in federation.parts]
    yield (
        f"{config.algorithm} on {config.dataset}: {counted(len(sizes), 'client')} of "
        f"{min(sizes):,} to {counted(max(sizes), 'example')}, {config.partition} "
        f"partition, {counted(config.rounds or 0, 'round')}"
    )
    if config.dataset == "npz":
        yield _understood(federation.dataset)
    yield from said(config, federation.dataset)
    untouched = dataclasses.asdict(resolve(TrainConfig(dataset=config.dataset)))
    for field in unused(dataclasses.asdict(config), untouched):
        yield f"note: {config.algorithm} has no use for {flag(field)}"
    if federation.compact and federation.compact.note:
        yield f"note: clients train in full: {federation.compact.note}"
    if config.show_partition:
        yield data.class_table(federation.dataset.train.y, federation.parts)
    if config.verbose:
        names = ", ".join(map(str, federation.placement.mesh.devices.flat))
        yield f"jax {jax.__version__} on {names}"
