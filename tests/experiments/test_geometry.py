"""Measures of models and masks, against NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.lib import geometry
from fedsparsify_jax import trees


def stacked(seed, clients=4):
    rng = np.random.default_rng(seed)
    shapes = {"a": (clients, 3, 5), "b": (clients, 7)}
    return {name: rng.normal(size=shape) for name, shape in shapes.items()}


def flat(tree):
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in tree.values()], 1)


def test_the_jaccard_index_is_the_mean_over_pairs():
    masks = {name: leaf < 0.3 for name, leaf in stacked(0).items()}
    rows = flat(masks)
    wanted = np.mean(
        [
            np.sum(rows[i] & rows[j]) / np.sum(rows[i] | rows[j])
            for i, j in itertools.combinations(range(4), 2)
        ]
    )
    given = jax.tree.map(jnp.asarray, masks)
    assert float(geometry.jaccard(given)) == pytest.approx(wanted, rel=1e-5)


def test_masks_that_are_alike_or_empty_agree():
    for fill in (True, False):
        assert float(geometry.jaccard({"w": jnp.full((3, 4), fill)})) == 1


def test_directions_against_numpy():
    moves = stacked(1)
    rows = flat(moves)
    given = jax.tree.map(jnp.float32, moves)
    mean = rows.mean(0)
    wanted = mean @ mean / np.mean(np.sum(rows**2, axis=1))
    assert float(geometry.shared_direction(given)) == pytest.approx(wanted, rel=1e-5)
    one, other = (trees.take(given, k) for k in (0, 1))
    cosine = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
    assert float(geometry.cosine(one, other)) == pytest.approx(cosine, rel=1e-4)


def test_what_does_not_move_has_no_direction():
    still = {"w": jnp.zeros((3, 2))}
    assert float(geometry.shared_direction(still)) == 1
    assert float(geometry.cosine({"w": jnp.zeros(2)}, {"w": jnp.ones(2)})) == 0


def loss(variables):
    """A polynomial with several minima."""
    return jnp.sum((variables["a"] ** 2 - 1) ** 2) + jnp.sum(variables["b"]) ** 2


def numpy_loss(row):
    return np.sum((row[:15] ** 2 - 1) ** 2) + np.sum(row[15:]) ** 2


def test_barriers_against_numpy():
    models = stacked(2)
    rows = flat(models)
    barriers = []
    for i, j in itertools.combinations(range(4), 2):
        ends = (numpy_loss(rows[i]) + numpy_loss(rows[j])) / 2
        between = [
            numpy_loss((1 - share) * rows[i] + share * rows[j])
            for share in geometry.POINTS
        ]
        barriers.append(max(between) - ends)
    given = jax.tree.map(jnp.float32, models)
    found = float(jax.jit(lambda tree: geometry.barrier(loss, tree))(given))
    assert found == pytest.approx(np.mean(barriers), rel=1e-4)


def test_gradient_flow_is_of_parameters_alone():
    w, kept = np.array([2.0, 0.0, 3.0]), np.array([True, False, True])
    variables = {"params": {"w": jnp.float32(w)}, "batch_stats": {"mean": jnp.ones(3)}}
    masks = {"params": {"w": jnp.asarray(kept)}, "batch_stats": {"mean": kept}}

    def quadratic(variables):
        shifted = variables["params"]["w"] - variables["batch_stats"]["mean"]
        return jnp.sum(shifted**2)

    slope = 2 * (w - 1)
    wanted = np.sum(slope[kept] ** 2), np.sum(slope[~kept] ** 2)
    found = geometry.gradient_flow(quadratic, variables, masks)
    assert tuple(map(float, found)) == pytest.approx(wanted)
