"""Exact pruning against sorting in NumPy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax import masks, pruning
from fedsparsify_jax.pruning import allocation, threshold


def keep_largest(values, keep, allowed=None):
    """NumPy oracle: a bool vector of the ``keep`` largest, ties by lowest index."""
    values = np.asarray(values, np.float64)
    allowed = np.ones(len(values), bool) if allowed is None else np.asarray(allowed)
    order = sorted(np.flatnonzero(allowed), key=lambda i: (-values[i], i))
    kept = np.zeros(len(values), bool)
    kept[order[:keep]] = True
    return kept


# Few distinct values make ties the rule; zeros of both signs are among them.
values = st.lists(
    st.one_of(
        st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 2e-38, -2e-38]),
        st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False),
    ),
    min_size=2,
    max_size=24,
)


@given(values, st.floats(0, 1), st.data())
def test_global_pruning_is_exact_with_ties_by_index(numbers, sparsity, draw):
    cut = draw.draw(st.integers(1, len(numbers) - 1))
    scores = {"a": jnp.array(numbers[:cut]), "b": jnp.array(numbers[cut:])}
    found = pruning.prune(scores, sparsity)
    flat = np.concatenate([found["a"], found["b"]])
    keep = len(numbers) - math.floor(sparsity * len(numbers))
    np.testing.assert_array_equal(flat, keep_largest(np.float32(numbers), keep))


@given(values, st.floats(0, 1), st.data())
def test_pruning_within_never_leaves_the_given_masks(numbers, sparsity, draw):
    size = len(numbers)
    allowed = draw.draw(st.lists(st.booleans(), min_size=size, max_size=size))
    found = pruning.prune(
        {"a": jnp.array(numbers)}, sparsity, within={"a": jnp.array(allowed)}
    )
    keep = min(size - math.floor(sparsity * size), sum(allowed))
    expected = keep_largest(np.float32(numbers), keep, allowed)
    np.testing.assert_array_equal(found["a"], expected)


@pytest.mark.parametrize("sparsity", [0.0, 0.31, 0.8, 0.999, 1.0])
@pytest.mark.parametrize("values", ["ties", "equal", "distinct"])
def test_counts_that_fill_rows_and_leaves_that_do_not(values, sparsity):
    sizes = (threshold.ROW - 1, threshold.ROW, 2 * threshold.ROW + 1, 1)
    rng, total = np.random.default_rng(0), sum(sizes)
    numbers = {
        "ties": rng.integers(-3, 4, total),
        "equal": np.full(total, 7),
        "distinct": rng.permutation(total) - 99,
    }[values].astype(np.float32)
    leaves = np.split(numbers, np.cumsum(sizes)[:-1])
    found = jax.jit(pruning.prune)([jnp.asarray(leaf) for leaf in leaves], sparsity)
    keep = int(allocation.kept_count(total, jnp.float32(sparsity)))
    np.testing.assert_array_equal(np.concatenate(found), keep_largest(numbers, keep))


@given(st.integers(0, 2**31 - 1), st.floats(0, 0.99))
def test_a_traced_sparsity_keeps_the_same_count_as_a_concrete_one(seed, sparsity):
    scores = {"w": jax.random.normal(jax.random.key(seed), (40,))}
    traced = jax.jit(pruning.prune)(scores, jnp.float32(sparsity))
    concrete = pruning.prune(scores, sparsity)
    counts = [int(tree["w"].sum()) for tree in (traced, concrete)]
    assert abs(counts[0] - counts[1]) <= 1


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.8, 0.85, 0.9, 0.95, 0.99])
def test_the_papers_sparsities_keep_n_minus_floor_sn_of_the_mlp(sparsity):
    sizes = {"a": 784 * 128, "b": 128, "c": 128 * 128, "d": 128, "e": 1280, "f": 10}
    keys = jax.random.split(jax.random.key(0), len(sizes))
    scores = {
        name: jnp.abs(jax.random.normal(key, (size,)))
        for key, (name, size) in zip(keys, sizes.items(), strict=True)
    }
    found = jax.jit(pruning.prune)(scores, jnp.float32(sparsity))
    kept = sum(int(mask.sum()) for mask in jax.tree.leaves(found))
    assert kept == 118_282 - math.floor(sparsity * 118_282)


@pytest.mark.parametrize("size", [7, 118_282, 14_774_436, 2**26 + 1])
def test_kept_count_of_a_traced_sparsity_is_as_exact_as_promised(size):
    for sparsity in (0.1, 0.3, 0.7, 0.9, 0.95, 0.99):
        exact = int(allocation.kept_count(size, sparsity))
        assert exact == size - math.floor(sparsity * size)
        traced = int(allocation.kept_count(size, jnp.float32(sparsity)))
        assert abs(traced - exact) <= 1 + size / 1e6


def test_layer_scope_prunes_every_leaf_by_itself():
    scores = {"big": jnp.arange(10.0) + 100, "small": jnp.arange(4.0)}
    found = pruning.prune(scores, 0.5, scope="layer")
    assert found["big"].tolist() == [False] * 5 + [True] * 5
    assert found["small"].tolist() == [False, False, True, True]


def test_erk_scope_keeps_the_exact_total_and_the_vectors():
    shapes = {"conv": (5, 5, 3, 6), "fc": (400, 120), "out": (84, 10), "bias": (120,)}
    keys = jax.random.split(jax.random.key(0), len(shapes))
    scores = {
        name: jax.random.normal(key, shape)
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    total = sum(leaf.size for leaf in scores.values())
    for sparsity in (0.0, 0.5, 0.8, 0.9):
        found = jax.jit(lambda s, x: pruning.prune(x, s, scope="erk"))(sparsity, scores)
        kept = sum(int(mask.sum()) for mask in found.values())
        assert kept == total - math.floor(sparsity * total)
        assert found["bias"].all()
    # the larger its two sides, the sparser a layer
    density = {name: float(mask.mean()) for name, mask in found.items()}
    assert density["fc"] < density["conv"] < density["out"] <= 1.0


def test_erk_densities_of_the_published_network():
    # reference/related_systems.md, section 9.1 (FedDST's CIFAR network at S = .8)
    shapes = [(5, 5, 3, 6), (5, 5, 6, 16), (6400, 120), (120, 84), (84, 10)]
    found = allocation.erk_densities(shapes, 0.2)
    np.testing.assert_allclose(found, [0.969, 0.306, 0.195, 0.465, 1.0], atol=5e-4)
    sizes = np.array([math.prod(shape) for shape in shapes])
    assert float(found @ sizes) == pytest.approx(0.2 * sizes.sum(), rel=1e-5)


def test_only_parameters_are_pruned_unless_told_otherwise():
    scores = {
        "params": {"w": jnp.array([3.0, 1.0]), "b": jnp.array([0.0, 0.0])},
        "batch_stats": {"mean": jnp.zeros(3)},
    }
    found = pruning.prune(scores, 0.75)
    assert found["params"]["w"].tolist() == [True, False]
    assert not found["params"]["b"].any()
    assert found["batch_stats"]["mean"].all()

    kernels = pruning.prune(scores, 0.5, prunable=lambda name: name.endswith("/w"))
    assert kernels["params"]["w"].tolist() == [True, False]
    assert kernels["params"]["b"].all()
    assert float(masks.sparsity(kernels, lambda name: name.endswith("/w"))) == 0.5


def test_nan_scores_go_first_and_signed_scores_keep_their_order():
    found = pruning.prune({"w": jnp.array([-3.0, -1.0, 0.5, -jnp.inf])}, 0.5)
    assert found["w"].tolist() == [False, True, True, False]
    with jax.debug_nans(False):
        found = pruning.prune({"w": jnp.array([jnp.nan, 0.0, jnp.nan, 2.0])}, 0.5)
    assert found["w"].tolist() == [False, True, False, True]


def test_vmap_over_clients_equals_a_loop():
    scores = {"w": jax.random.normal(jax.random.key(0), (5, 30)).round(1)}
    sparsity = jnp.array([0.0, 0.2, 0.5, 0.9, 0.97])
    batched = jax.vmap(pruning.prune)(scores, sparsity)
    for client in range(5):
        alone = pruning.prune({"w": scores["w"][client]}, sparsity[client])
        np.testing.assert_array_equal(batched["w"][client], alone["w"])


def test_no_sort_is_compiled():
    scores = {"w": jnp.zeros((50, 40)), "b": jnp.zeros(40)}
    for scope in pruning.SCOPES:
        program = jax.jit(lambda s, x, scope=scope: pruning.prune(x, s, scope=scope))
        assert "sort" not in program.lower(0.5, scores).as_text()


def test_bad_arguments_are_refused():
    scores = {"w": jnp.ones(3)}
    with pytest.raises(ValueError, match="unknown scope 'filter'"):
        pruning.prune(scores, 0.5, scope="filter")
    for sparsity in (-0.1, 1.1):
        with pytest.raises(ValueError, match="must lie in"):
            pruning.prune(scores, sparsity)
    with pytest.raises(AssertionError):
        pruning.prune(scores, 0.5, within={"v": jnp.ones(3, bool)})
    with pytest.raises(AssertionError):
        pruning.prune(scores, 0.5, within={"w": jnp.ones(2, bool)})
    with pytest.raises(ValueError, match="two dimensions"):
        pruning.prune(scores, 0.5, scope="erk")
