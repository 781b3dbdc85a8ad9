"""A round with encryption merges what the plain one does: Global, Local, statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import aggregation, masks
from fedsparsify_jax.deploy import encrypted
from fedsparsify_jax.errors import InputError

pytest.importorskip("tenseal.sealapi", reason="tenseal is missing: extra encrypted")

SIZES = np.array([10, 30, 60, 100])
SHARES = SIZES / SIZES.sum()


@pytest.fixture(scope="module")
def keys():
    return encrypted.make_keys()


def clients(seed: int = 0):
    rng = np.random.default_rng(seed)
    return [
        {
            "params": {
                "w": rng.normal(size=(40, 30)).astype(np.float32),
                "b": rng.normal(size=30).astype(np.float32),
            },
            "batch_stats": {"mean": rng.normal(size=5).astype(np.float32)},
        }
        for _ in SIZES
    ]


def kept(density: float, seed: int):
    rng = np.random.default_rng(seed)
    return {
        "params": {"w": rng.random((40, 30)) < density, "b": np.ones(30, bool)},
        "batch_stats": {"mean": np.ones(5, bool)},
    }


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def applied(mask, tree):
    return jax.tree.map(
        lambda m, leaf: np.where(m, leaf, 0).astype(leaf.dtype), mask, tree
    )


def assert_close(tree, expected):
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    assert jax.tree.structure(tree) == jax.tree.structure(expected)
    for one, other in zip(
        jax.tree.leaves(tree), jax.tree.leaves(expected), strict=True
    ):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * scale)


def test_global_merges_under_the_shared_masks(keys):
    shared = kept(0.1, seed=1)
    trees = [applied(shared, tree) for tree in clients()]
    terms = encrypted.terms_of(trees[0], shared, round=1, clients=4)
    merged = encrypted.aggregate(trees, shared, SHARES, keys, terms)
    assert_close(merged, aggregation.weighted_mean(stacked(trees), jnp.array(SIZES)))


def test_local_merges_under_the_elected_masks(keys):
    """Votes in plaintext, then elected entries, zeros where a client pruned them."""
    own = [kept(0.5, seed) for seed in range(4)]
    trees = [applied(m, tree) for m, tree in zip(own, clients(), strict=True)]
    elected = jax.tree.map(np.asarray, masks.majority_vote(stacked(own)))
    model = clients(9)[0]
    terms = encrypted.terms_of(model, elected, round=1, clients=4)
    merged = encrypted.aggregate(trees, elected, SHARES, keys, terms)
    mean = aggregation.weighted_mean(stacked(trees), jnp.array(SIZES))
    assert_close(merged, masks.apply(elected, mean))
    assert 0 < sum(leaf.sum() for leaf in jax.tree.leaves(elected)) < 1235


def test_clients_without_a_share_are_left_out_with_their_nan(keys):
    shared, trees = kept(0.1, seed=1), clients()
    trees[2]["params"]["w"][:] = np.nan
    terms = encrypted.terms_of(trees[0], shared, round=1, clients=4)
    shares = np.array([0.25, 0.25, 0.0, 0.5])
    merged = encrypted.aggregate(trees, shared, shares, keys, terms)
    bias = 0.25 * (trees[0]["params"]["b"] + trees[1]["params"]["b"])
    expected = bias + 0.5 * trees[3]["params"]["b"]
    np.testing.assert_allclose(merged["params"]["b"], expected, rtol=0, atol=3e-6)


def test_counters_are_taken_over_if_they_are_all_the_same(keys):
    keep = {"w": np.ones(2, bool), "steps": np.array(True)}
    trees = [{"w": np.ones(2, np.float32), "steps": np.int32(4)} for _ in range(2)]
    terms = encrypted.terms_of(trees[0], keep, round=1, clients=2)
    merged = encrypted.aggregate(trees, keep, [0.5, 0.5], keys, terms)
    assert merged["steps"] == 4
    trees[1]["steps"] = np.int32(5)
    with pytest.raises(InputError, match="clients differ in steps"):
        encrypted.aggregate(trees, keep, [0.5, 0.5], keys, terms)


def test_rounds_of_nobody_are_refused(keys):
    shared, trees = kept(0.1, seed=1), clients()
    terms = encrypted.terms_of(trees[0], shared, round=1, clients=4)
    with pytest.raises(InputError, match="no client has a share"):
        encrypted.aggregate(trees, shared, np.zeros(4), keys, terms)
    with pytest.raises(InputError, match="4 clients have 3 shares"):
        encrypted.aggregate(trees, shared, SHARES[:3], keys, terms)
