"""The network of the conformance table, and the algorithms of its rows."""

import functools
from typing import Any

import flax.linen as nn
import jax
from conformance_rows import FINAL, ROWS

from fedsparsify_jax import models
from fedsparsify_jax.algorithms import registry
from fedsparsify_jax.types import State

ROUNDS, CLIENTS = 3, 4


class Normed(nn.Module):
    """5-4-3 with batch statistics: 43 parameters and 8 statistics.

    The statistics of a single example amplify rounding by up to 1 / sqrt(epsilon).
    All but the last layer is a block, with a head of 15 parameters.
    """

    small: bool = False

    def first_blocks(self) -> tuple[Any, ...]:
        return () if self.small else (self.clone(small=True),)

    @nn.compact
    def __call__(self, x: Any, *, train: bool = False, valid: Any = None) -> Any:
        x = nn.Dense(4, use_bias=False)(x)
        mask = None if valid is None else valid[:, None]
        x = nn.BatchNorm(use_running_average=not train, epsilon=1.0)(x, mask=mask)
        return nn.Dense(3, name="head" if self.small else None)(nn.relu(x))


MODEL, PARAMETERS, STATISTICS = models.from_linen(Normed(), (5,)), 43, 8


def entry(name) -> registry.Row:
    """The algorithm of a row, which the variant follows after a comma."""
    return registry.ALGORITHMS[name.split(", ")[0]]


def keywords(algorithm):
    """The defaults of a row that are keywords; what is prunable is a function there."""
    return {k: v for k, v in algorithm.defaults.items() if k != "prunable"}


def build(name, *, final=FINAL, model=MODEL, **options):
    """Builds the algorithm of a row."""
    algorithm, row = entry(name), ROWS[name]
    settings = {
        "num_clients": CLIENTS,
        "learning_rate": 0.3,
        "local_epochs": 2,
        "batch_size": 3,
        **keywords(algorithm),
        **row.options,
    }
    if "levels" in algorithm.parameters:  # the model is that of the first
        settings["levels"] = (final, (1 + final) / 2)
    elif row.final is not None:
        settings["final_sparsity"] = final
    if "rounds" in algorithm.parameters:
        settings["rounds"] = ROUNDS
    if "parts" in algorithm.parameters:
        settings["parts"] = model.parts
    return algorithm.build(model.apply, **settings | options)


@functools.cache
def _first_model():
    """Every test starts from it; algorithms copy what they are given."""
    return MODEL.init(jax.random.key(2))


def start(algorithm) -> State:
    return algorithm.init(jax.random.key(1), _first_model())
