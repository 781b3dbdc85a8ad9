"""The network of the conformance table, the algorithms of its rows and their runs."""

import functools
from typing import Any

import flax.linen as nn
import jax
import pytest
from conformance_rows import FINAL, ROWS
from toy import round_keys, run_rounds

from fedsparsify_jax import models
from fedsparsify_jax.algorithms import registry
from fedsparsify_jax.types import RoundInfo, State

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


# Every test starts from it; algorithms copy what they are given. Not made when it is
# first asked for, which may be inside of a trace.
_FIRST_MODEL = MODEL.init(jax.random.key(2))


def start(algorithm) -> State:
    return algorithm.init(jax.random.key(1), _FIRST_MODEL)


LONG = [name for name, row in ROWS.items() if row.long]
# A client that is drawn by its number is another one elsewhere. The variants without
# one have more of the properties, and each takes a program or two.
NO_DRAW = [name for name, row in ROWS.items() if not row.drawn_client]
SPARSE = [name for name in NO_DRAW if ROWS[name].final is not None]
AS_FEDAVG = [name for name in SPARSE if ROWS[name].as_fedavg]
# Strategies are the engine's: on more of its options with the methods of this paper.
PAPER = ("fedavg", "fedsparsify-global", "fedsparsify-local")
ENGINE = [name for name in ROWS if name.startswith(PAPER)]
# What a variant does not change is tested on one row of every algorithm, and on the
# engine's options.
FIRST = [name for name in ROWS if "," not in name or ROWS[name].long or name in ENGINE]
# A part of the clients takes programs of its own: a cohort of one for all methods, and
# one of three where the strategies are tested.
PART = {name: {"participation": 0.75} if name in ENGINE else {} for name in ROWS}
every_row = pytest.mark.parametrize("name", ROWS)
every_row_without_draw = pytest.mark.parametrize("name", NO_DRAW)

TRACES: list[str] = []  # the names of rows, one a trace


@functools.lru_cache(maxsize=8)  # of a row or two
def compiled(name, **options):
    """The algorithm and its step, which is compiled once for all tests."""
    algorithm = build(name, **options)

    def step(key, state, clients):
        TRACES.append(name)
        return algorithm.step(key, state, clients)

    return algorithm, jax.jit(step)


def run(name, clients, **options) -> tuple[list[State], list[RoundInfo]]:
    """All states, the first included, and infos; all of them from one trace.

    Over a mesh it takes two: the first state is on one device.
    """
    algorithm, step = compiled(name, **options)
    before = len(TRACES)
    results = run_rounds(step, start(algorithm), clients, round_keys(ROUNDS))
    assert len(TRACES) <= before + 1 + ("client_map" in options)
    return results
