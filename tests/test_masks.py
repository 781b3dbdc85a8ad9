"""Mask algebra by hand and against NumPy."""

import chex
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsparsify_jax import masks

VARIABLES = {
    "params": {"w": jnp.array([[1.0, -2.0], [3.0, 4.0]]), "b": jnp.array([5.0, 6.0])},
    "batch_stats": {"mean": jnp.array([7.0, 8.0])},
}
SOME = {
    "params": {
        "w": jnp.array([[True, False], [False, True]]),
        "b": jnp.array([False, True]),
    },
    "batch_stats": {"mean": jnp.array([True, True])},
}


def test_ones_like_keeps_everything():
    ones = masks.ones_like(VARIABLES)
    assert float(masks.sparsity(ones)) == 0.0
    chex.assert_trees_all_equal(masks.apply(ones, VARIABLES), VARIABLES)


def test_apply_zeroes_exactly_even_infinity():
    pruned = masks.apply(
        {"w": jnp.array([False, True])}, {"w": jnp.array([jnp.inf, 1])}
    )
    assert pruned["w"].tolist() == [0.0, 1.0]


def test_sparsity_counts_prunable_parameters_only():
    assert float(masks.sparsity(SOME)) == pytest.approx(3 / 6)
    only_w = masks.sparsity(SOME, lambda name: name == "params/w")
    assert float(only_w) == pytest.approx(2 / 4)
    assert float(masks.sparsity(SOME, lambda name: False)) == 0.0


def test_kept_counts_every_leaf():
    counts = {name: int(count) for name, count in masks.kept(SOME).items()}
    assert counts == {"batch_stats/mean": 2, "params/b": 1, "params/w": 2}


def test_a_tree_without_collections_is_all_parameters():
    assert float(masks.sparsity({"w": jnp.array([True, False])})) == 0.5


bools = hnp.arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 9)))


@given(bools, st.data())
def test_majority_vote_matches_numpy(votes, draw):
    clients = len(votes)
    present = draw.draw(hnp.arrays(bool, clients))
    stacked = {"w": jnp.asarray(votes)}
    for rule in ("authors", "strict"):
        for part in (None, present):
            who = np.ones(clients, bool) if part is None else part
            total, count = int(who.sum()), votes[who].sum(axis=0)
            expected = count >= total // 2 if rule == "authors" else count > total / 2
            expected &= count >= 1  # nobody's weight is never elected
            chosen = None if part is None else jnp.asarray(part)
            found = masks.majority_vote(stacked, chosen, rule=rule)["w"]
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("clients", "needed"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (10, 5), (11, 5)]
)
def test_the_authors_rule_needs_floor_half(clients, needed):
    votes = jnp.arange(clients)[:, None] < jnp.arange(clients + 1)[None, :]
    elected = masks.majority_vote({"w": votes})["w"]  # column v has v votes
    assert int(jnp.argmax(elected)) == needed
    strict = masks.majority_vote({"w": votes}, rule="strict")["w"]
    assert int(jnp.argmax(strict)) == clients // 2 + 1


def test_intersect():
    a = {"w": jnp.array([True, True, False])}
    b = {"w": jnp.array([True, False, False])}
    assert masks.intersect(a, b)["w"].tolist() == [True, False, False]


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="unknown vote rule"):
        masks.majority_vote({"w": jnp.ones((2, 2), bool)}, rule="half")
    with pytest.raises(AssertionError):
        masks.majority_vote({"w": jnp.ones((2, 2), bool)}, jnp.ones(3, bool))
    with pytest.raises(AssertionError):
        masks.majority_vote({})
