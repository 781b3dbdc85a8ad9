"""Agreement of masks: methods that only look on."""

import jax
import numpy as np
import pytest

from experiments.studies import mask_agreement
from fedsparsify_jax import algorithms, schedules
from fedsparsify_jax.engine import engine

ROUNDS = 3


def linear(variables, x, **_):
    return x @ variables["params"]["w"], {}


@pytest.mark.parametrize("name", ["local", "global"])
def test_looking_on_changes_nothing(name, clients):
    options = {"num_clients": 4, "participation": 0.5, "local_epochs": 1}
    method = getattr(mask_agreement, f"{name}_method")
    build = getattr(algorithms, f"fedsparsify_{name}")
    plain = build(linear, final_sparsity=0.8, rounds=ROUNDS, **options)
    seen = engine(linear, method(schedules.polynomial(0.8, end=ROUNDS)), **options)
    ends = []
    for algorithm in (plain, seen):
        weights = jax.random.normal(jax.random.key(1), (5, 3))
        state = algorithm.init(jax.random.key(0), {"params": {"w": weights}})
        step = jax.jit(algorithm.step)
        for t in range(ROUNDS):
            state, _ = step(jax.random.key(10 + t), state, clients)
        ends.append(state)
    wanted, found = (np.asarray(state.variables["params"]["w"]) for state in ends)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    np.testing.assert_array_equal(found != 0, wanted != 0)
    assert 0 < float(ends[1].server) <= 1


def test_chance():
    line = {"target": [0.0, 0.5, 0.9], "sparsity": [0.0, 0.5, 0.9]}
    # Everybody keeps all; a half of all; a fifth of that half.
    assert mask_agreement.by_chance(line) == pytest.approx([1, 1 / 3, 1 / 9])
