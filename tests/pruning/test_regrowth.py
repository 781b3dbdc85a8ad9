"""Drop and grow against sorting in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax.pruning import drop_and_grow, replaced_share, share_counts

# Few distinct scores make ties the rule.
scores = st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, np.inf, np.nan])
entries = st.lists(st.tuples(st.booleans(), scores, scores), min_size=1, max_size=20)


def in_order(places, values):
    """Places by falling value, equal ones by index, NaN last."""
    key = np.where(np.isnan(values), -np.inf, values)
    return sorted(places, key=lambda i: (-key[i], i))


def expected(mask, drop, grow, k, again):
    kept, pruned = np.flatnonzero(mask), np.flatnonzero(~mask)
    k = min(k, len(kept)) if again else min(k, len(kept), len(pruned))
    stay = in_order(kept, drop)[: len(kept) - k]
    free = sorted(set(range(len(mask))) - set(stay)) if again else pruned
    result = np.zeros(len(mask), bool)
    result[[*stay, *in_order(free, grow)[:k]]] = True
    return result


@given(entries, entries, st.integers(0, 22), st.integers(0, 22), st.booleans())
@jax.debug_nans(False)
def test_exactly_k_of_a_leaf_move_whatever_the_scores(one, other, k, l, again):
    leaves = {"a": one, "b": other}
    columns = [
        {
            name: jnp.array([row[column] for row in rows], dtype)
            for name, rows in leaves.items()
        }
        for column, dtype in enumerate((bool, jnp.float32, jnp.float32))
    ]
    counts = {"a": jnp.int32(k), "b": jnp.int32(l)}
    move = jax.jit(drop_and_grow, static_argnames="again")
    result = move(*columns, counts, again=again)
    for name in leaves:
        mask, drop, grow = (np.asarray(column[name]) for column in columns)
        wanted = expected(mask, drop, grow, int(counts[name]), again)
        np.testing.assert_array_equal(result[name], wanted)
        assert result[name].sum() == mask.sum()


def test_leaves_that_may_not_be_pruned_stay_whole():
    ones, zeros = jnp.ones(4, bool), jnp.zeros(4)
    masks = {"params": {"kernel": jnp.array([True, True, False, False]), "bias": ones}}
    flat = {"params": {"kernel": jnp.array([1.0, 2, 3, 4]), "bias": zeros}}
    counts = {"params": {"kernel": 1, "bias": 1}}
    moved = drop_and_grow(
        masks, flat, flat, counts, prunable=lambda name: name.endswith("kernel")
    )
    assert moved["params"]["kernel"].tolist() == [False, True, False, True]
    assert moved["params"]["bias"].all()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_a_share_counts_the_kept_alone(share):
    masks = {"a": jnp.arange(10) < 7, "b": jnp.zeros(3, bool)}
    counts = share_counts(masks, share)
    assert int(counts["a"]) == int(np.floor(share * 7)) and int(counts["b"]) == 0


def test_the_timing_of_feddsts_authors():
    share = replaced_share(0.3, interval=10, first=2, until=20, decay="constant")
    rounds = [t for t in range(1, 31) if float(share(t)) > 0]
    assert rounds == [2, 12] and float(share(12)) == pytest.approx(0.3)
