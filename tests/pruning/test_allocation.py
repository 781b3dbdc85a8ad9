"""Densities of layers against the figures of the survey page and plain NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax import pruning
from fedsparsify_jax.pruning import allocation

CIFAR = [(5, 5, 3, 6), (5, 5, 6, 16), (6400, 120), (120, 84), (84, 10)]
FIGURES = {
    "erk": [0.969, 0.306, 0.195, 0.465, 1.0],
    "erk_feddst": [0.227, 0.204, 0.200, 0.209, 0.283],
}


@pytest.mark.parametrize("rule", FIGURES)
def test_figures(rule: str) -> None:
    densities = allocation.RULES[rule](CIFAR, 0.2)
    np.testing.assert_allclose(densities, FIGURES[rule], atol=6e-4)


def test_er_leaves_kernel_dimensions_out() -> None:
    sizes = np.array([math.prod(shape) for shape in CIFAR])
    raw = np.array([(s[-2] + s[-1]) / (s[-2] * s[-1]) for s in CIFAR])
    dense = np.zeros(len(CIFAR), bool)
    while True:
        eps = (0.2 * sizes.sum() - sizes[dense].sum()) / (raw * sizes)[~dense].sum()
        more = ~dense & (eps * raw > 1)
        if not more.any():
            break
        dense |= more
    expected = np.where(dense, 1.0, eps * raw)
    np.testing.assert_allclose(allocation.er_densities(CIFAR, 0.2), expected, rtol=1e-4)
    assert not np.allclose(expected, allocation.erk_densities(CIFAR, 0.2))


@pytest.mark.parametrize("rule", allocation.RULES)
@pytest.mark.parametrize("density", [0.01, 0.2, 0.7, 1.0])
def test_the_whole_has_the_wanted_density(rule: str, density: float) -> None:
    sizes = np.array([math.prod(shape) for shape in CIFAR])
    densities = np.asarray(allocation.RULES[rule](CIFAR, density))
    assert densities.min() >= 0 and densities.max() <= 1
    np.testing.assert_allclose(densities @ sizes / sizes.sum(), density, rtol=1e-3)


@pytest.mark.parametrize("scope", ["er", "erk", "erk_feddst"])
def test_prune_keeps_the_exact_count_and_the_vectors(scope: str) -> None:
    rng = np.random.default_rng(0)
    scores = {
        "a": jnp.asarray(rng.random((9, 12)), jnp.float32),
        "b": jnp.asarray(rng.random((12,)), jnp.float32),
        "c": jnp.asarray(rng.random((12, 4)), jnp.float32),
    }
    masks = pruning.prune(scores, 0.7, scope=scope)
    total = 9 * 12 + 12 + 12 * 4
    assert sum(int(m.sum()) for m in masks.values()) == total - int(0.7 * total)
    assert masks["b"].all()
    for name in "ac":
        chosen, left = np.asarray(masks[name]), np.asarray(scores[name])
        assert left[chosen].min() > left[~chosen].max()


def test_a_scope_without_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="'global' gives leaves no counts"):
        pruning.leaf_counts({"w": jnp.zeros((2, 2))}, 0.5, scope="global")
    with pytest.raises(ValueError, match="ERK_FEDDST needs at least one leaf"):
        pruning.leaf_counts({"w": jnp.zeros(2)}, 0.5, scope="erk_feddst")


@pytest.mark.parametrize("seed", range(5))
def test_varied_counts_divide_the_budget_by_the_factors(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [(9, 12), (12,), (30, 12, 4), (12, 4)]
    sizes = np.array([math.prod(shape) for shape in shapes])
    counts = np.array([rng.integers(1, size // 4) for size in sizes])
    factors = np.exp(rng.uniform(-1, 1, 4))
    given = [jnp.int32(count) for count in counts]
    varied = np.array(allocation.varied_counts(shapes, given, jnp.asarray(factors)))
    assert varied.sum() == counts.sum() and varied[1] == counts[1]
    kernels = [0, 2, 3]
    scaled = (counts * factors)[kernels]
    expected = scaled / scaled.sum() * counts[kernels].sum()
    assert np.all(expected < sizes[kernels])  # none of them is full
    np.testing.assert_allclose(varied[kernels], expected, atol=3)


def test_varied_counts_fill_no_leaf_beyond_its_size() -> None:
    shapes, counts = [(2, 5), (10, 10)], [jnp.int32(8), jnp.int32(40)]
    varied = allocation.varied_counts(shapes, counts, jnp.array([9.0, 0.1]))
    assert [int(count) for count in varied] == [10, 38]
    vectors = allocation.varied_counts([(4,)], [jnp.int32(2)], jnp.array([9.0]))
    assert [int(count) for count in vectors] == [2]


# Shares that are 1e30 apart overflow on the way, as the docstring says.
share = st.just(0.0) | st.floats(1e-20, 9)
room = st.lists(st.tuples(st.integers(0, 30), share), min_size=1, max_size=7)


divided = jax.jit(allocation.divided)  # compiled once a length


@given(room, st.integers(0, 150))
def test_a_budget_is_divided_to_the_last_one_in_proportion(rows, budget):
    most = np.array([limit for limit, _ in rows])
    shares = np.array([share for _, share in rows], np.float32)
    counts = np.asarray(divided(budget, shares, most))
    assert counts.sum() == min(budget, most.sum())
    assert (counts >= 0).all() and (counts <= most).all()
    # None that is not full has less for its share than another, but for roundings.
    for i in np.flatnonzero((counts < most) & (shares > 0)):
        fair = counts[i] + len(rows)
        in_proportion = shares.astype(np.float64) / shares[i] * fair + len(rows)
        assert (counts <= in_proportion).all()
