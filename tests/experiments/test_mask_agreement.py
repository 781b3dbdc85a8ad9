"""Agreement of masks: the index, and methods that only look on."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.studies import mask_agreement
from fedsparsify_jax import algorithms, schedules
from fedsparsify_jax.engine import engine

ROUNDS = 3


def test_the_index_is_the_mean_over_pairs():
    rng = np.random.default_rng(0)
    a, b = rng.random((4, 3, 5)) < 0.5, rng.random((4, 7)) < 0.3
    flat = np.concatenate([a.reshape(4, -1), b], axis=1)
    wanted = np.mean(
        [
            np.sum(flat[i] & flat[j]) / np.sum(flat[i] | flat[j])
            for i, j in itertools.combinations(range(4), 2)
        ]
    )
    masks = {"a": jnp.asarray(a), "b": jnp.asarray(b)}
    assert float(mask_agreement.jaccard(masks)) == pytest.approx(wanted, rel=1e-5)


def test_masks_that_are_alike_or_empty_agree():
    for fill in (True, False):
        assert float(mask_agreement.jaccard({"w": jnp.full((3, 4), fill)})) == 1


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
