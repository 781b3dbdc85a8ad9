"""The mechanism: bounded influence, whatever a client sends, and noise of a size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from fedsparsify_jax.privacy import noise

KEPT = {
    "params": {"a": jnp.array([True, True, False]), "b": jnp.array([[True, False]])}
}
START = {"params": {"a": jnp.array([1.0, -2.0, 0.0]), "b": jnp.array([[0.5, 0.0]])}}
HOSTILE = st.floats(width=32, allow_nan=True, allow_infinity=True)


def tree(numbers):
    """Five numbers, or rows of five, as a model."""
    numbers = jnp.asarray(numbers, jnp.float32)
    return {"params": {"a": numbers[..., :3], "b": numbers[..., None, 3:]}}


def flat(model):
    leaves = [np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(model)]
    return np.concatenate(leaves)


@jax.jit
def summed(sent, present, norm):
    return noise.clipped_sum(tree(sent), present, START, KEPT, norm)


@given(
    st_numpy.arrays(np.float32, (3, 5), elements=HOSTILE),
    st_numpy.arrays(np.float32, (5,), elements=HOSTILE),
    st.sampled_from([1e-3, 1.0, 50.0]),
)
def test_one_client_moves_the_sum_by_no_more_than_the_norm(sent, other, norm):
    """To remove it, or by twice the norm to replace it, whatever anyone sends."""
    with jax.debug_nans(False):
        whole = flat(summed(sent, np.array([True] * 3), norm))
        without = flat(summed(sent, np.array([True, True, False]), norm))
        replaced = flat(
            summed(np.stack([sent[0], sent[1], other]), np.ones(3, bool), norm)
        )
    rounding = 1 + 1e-4
    assert np.isfinite(whole).all()
    assert np.linalg.norm(whole - without) <= norm * rounding
    assert np.linalg.norm(whole - replaced) <= 2 * norm * rounding
    assert np.linalg.norm(whole) <= 3 * norm * rounding


@given(st_numpy.arrays(np.float32, (5,), elements=HOSTILE))
def test_pruned_entries_are_no_part_of_an_update(sent):
    with jax.debug_nans(False):
        update = noise.clipped_update(tree(sent), START, KEPT, 1.0)
    kept = flat(KEPT).astype(bool)
    assert (flat(update)[~kept] == 0).all()


def test_updates_are_shortened_and_not_turned():
    sent = tree([4.0, 2.0, 9.0, 0.5, 9.0])  # moves by (3, 4) where it counts
    long = flat(noise.clipped_update(sent, START, KEPT, 1.0))
    np.testing.assert_allclose(long, [0.6, 0.8, 0, 0, 0], rtol=1e-6)
    short = flat(noise.clipped_update(sent, START, KEPT, 6.0))
    np.testing.assert_allclose(short, [3, 4, 0, 0, 0], rtol=1e-6)


def test_a_number_that_is_none_takes_its_whole_update_out():
    for broken in (np.nan, np.inf, -np.inf):
        with jax.debug_nans(False):
            update = noise.clip(tree([1.0, 2.0, 3.0, broken, 0.0]), 1.0)
        assert (flat(update) == 0).all()


def test_the_mean_is_over_a_fixed_denominator():
    sent = np.array([[2.0, -2, 0, 0.5, 0], [1.0, -1, 0, 0.5, 0], [9.0] * 5])
    total = summed(sent, np.array([True, True, False]), 10.0)
    model = flat(noise.moved(START, total, 4.0))
    np.testing.assert_allclose(model, [1.25, -1.75, 0, 0.5, 0])


def test_noise_is_normal_with_the_deviation_of_the_mechanism():
    """Mean, deviation and tails of 40,000 draws; independent between leaves."""
    width = 20_000
    model = {"a": jnp.ones(width), "b": jnp.zeros(width)}
    masks = jax.tree.map(lambda leaf: jnp.arange(width) % 4 > 0, model)
    deviation = noise.deviation_of_mean(1.5, 0.4, 3)
    assert float(deviation) == pytest.approx(0.2)
    noisy = noise.add_noise(noise.noise_key(jax.random.key(3)), model, masks, deviation)
    kept = np.arange(width) % 4 > 0
    a, b = np.asarray(noisy["a"]), np.asarray(noisy["b"])
    assert (a[~kept] == 0).all() and (b[~kept] == 0).all()
    number = kept.sum()
    for draws in (a[kept] - 1, b[kept]):
        assert abs(draws.mean()) < 4 * 0.2 / np.sqrt(number)
        assert draws.std() == pytest.approx(0.2, rel=4 / np.sqrt(2 * number))
        assert (np.abs(draws) > 0.4).mean() == pytest.approx(0.0455, abs=0.008)
    assert abs(np.corrcoef(a[kept], b[kept])[0, 1]) < 4 / np.sqrt(number)


def test_noise_has_a_key_of_its_own_each_round():
    key = jax.random.key(0)
    first = noise.noise_key(key)
    again = noise.noise_key(jax.random.key(0))
    other = noise.noise_key(jax.random.key(1))
    data = [jax.random.key_data(k).tolist() for k in (first, again, other, key)]
    assert data[0] == data[1]
    assert len({tuple(d) for d in data}) == 3
