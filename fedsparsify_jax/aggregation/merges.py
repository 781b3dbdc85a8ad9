"""Every merge of the authors' code behind one signature, chosen by name.

A *value* merge gives the server's variables:
``(stacked, masks, weights, previous) -> variables`` with the clients' variables and
masks ``[K, ...]``, their numbers of examples ``[K]`` and the global variables they
started from. `VALUES` holds them by name; `streaming.aggregate` puts one under masks.

In all of them a client of weight zero is absent whatever its arrays hold, pruned
entries of a present one are zeros, and if all are absent the result is zero
(``previous`` for the pseudo-gradient). Only parameters are merged in unusual ways:
collections beside ``params``, such as running statistics, are averaged as in FedAvg,
for a variance must not become a largest or a negative one.

References:
  Stripelis et al., FedSparsify (arXiv 2204.12430), and the merges in the authors' code.
"""

from collections.abc import Callable, Mapping
from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.aggregation import robust
from fedsparsify_jax.aggregation.means import weighted_mean
from fedsparsify_jax.aggregation.ranks import mean_of_ranks
from fedsparsify_jax.types import Masks, Variables

# (stacked, masks, weights, previous) -> variables
ValueMerge = Callable[[Variables, Masks, jax.Array, Variables], Variables]

_BELOW_ONE = 1.0 - 2.0**-24  # the largest float32 below 1


def _others_averaged(merge: ValueMerge) -> ValueMerge:
    """Lets a merge see masked parameters, and averages all other collections."""

    def merged(
        stacked: Variables, masks: Masks, weights: jax.Array, previous: Variables
    ) -> Variables:
        chex.assert_trees_all_equal_shapes(stacked, masks)
        chex.assert_shape(weights, (trees.leading_size(stacked),))
        stacked = mask_algebra.apply(masks, stacked)
        if not (isinstance(stacked, Mapping) and "params" in stacked):
            return merge(stacked, masks, weights, previous)
        mine = [{"params": tree["params"]} for tree in (stacked, masks, previous)]
        others = {name: tree for name, tree in stacked.items() if name != "params"}
        averaged = weighted_mean(others, weights) if others else {}
        return averaged | merge(mine[0], mine[1], weights, mine[2])

    return merged


@_others_averaged
def median(
    stacked: Variables, masks: Masks, weights: jax.Array, previous: Variables
) -> Variables:
    """Takes the median of every entry over the present clients, each counting once.

    For an even number it is the mean of the middle two. Zeros of pruned entries count.

    >>> stacked = {"w": jnp.array([[1.0], [9.0], [2.0], [7.0]])}
    >>> kept = {"w": jnp.ones((4, 1), bool)}
    >>> median(stacked, kept, jnp.array([5, 1, 1, 0]), {"w": jnp.zeros(1)})
    {'w': Array([2.], dtype=float32)}
    """
    del masks, previous
    present = jnp.sum(weights > 0, dtype=jnp.int32)
    low, high = jnp.maximum(present - 1, 0) // 2, present // 2 + 1
    middle = partial(mean_of_ranks, present=weights > 0, low=low, high=high)
    return jax.tree.map(middle, stacked)


def _pick(leaf: jax.Array, rank: jax.Array) -> jax.Array:
    """Takes the entries of the largest ranks ``[K, ...]``; 0 if all ranks are -inf."""
    best = jnp.argmax(rank, axis=0)[None]
    value = jnp.take_along_axis(leaf, best, axis=0)[0]
    anybody = jnp.max(rank, axis=0) > -jnp.inf
    return jnp.where(anybody, value, jnp.zeros_like(value))


@_others_averaged
def absolute_maximum(
    stacked: Variables, masks: Masks, weights: jax.Array, previous: Variables
) -> Variables:
    """Takes the value of largest magnitude of every entry; the first one's on ties.

    >>> stacked, kept = {"w": jnp.array([[1.0], [-3.0]])}, {"w": jnp.ones((2, 1), bool)}
    >>> absolute_maximum(stacked, kept, jnp.array([1, 1]), {"w": jnp.zeros(1)})
    {'w': Array([-3.], dtype=float32)}
    """
    del masks, previous

    def largest(leaf: jax.Array) -> jax.Array:
        here = trees.align(weights > 0, leaf)
        return _pick(leaf, jnp.where(here, jnp.abs(leaf), -jnp.inf))

    return jax.tree.map(largest, stacked)


@_others_averaged
def absolute_minimum(
    stacked: Variables, masks: Masks, weights: jax.Array, previous: Variables
) -> Variables:
    """Takes the non-zero value of smallest magnitude of every entry; 0 without one.

    Ties go to the first client.

    >>> stacked = {"w": jnp.array([[0.0], [-3.0], [4.0]])}
    >>> kept = {"w": jnp.ones((3, 1), bool)}
    >>> absolute_minimum(stacked, kept, jnp.array([1, 1, 1]), {"w": jnp.zeros(1)})
    {'w': Array([-3.], dtype=float32)}
    """
    del masks, previous

    def smallest(leaf: jax.Array) -> jax.Array:
        adds = trees.align(weights > 0, leaf) & (leaf != 0)
        return _pick(leaf, jnp.where(adds, -jnp.abs(leaf), -jnp.inf))

    return jax.tree.map(smallest, stacked)


@_others_averaged
def tanh(
    stacked: Variables, masks: Masks, weights: jax.Array, previous: Variables
) -> Variables:
    """Returns ``atanh(sum_k n_k tanh(w_k) / sum_k n_k)``, which outliers move less.

    The formula is our reading of a merge that the authors' code only names; nothing
    published defines it. float32 cannot tell values beyond 8.7 apart, so that is where
    the result saturates.
    """
    del masks, previous
    squashed = weighted_mean(jax.tree.map(jnp.tanh, stacked), weights)
    return jax.tree.map(
        lambda leaf: jnp.arctanh(jnp.clip(leaf, -_BELOW_ONE, _BELOW_ONE)), squashed
    )


def pseudo_gradient(
    stacked: Variables,
    masks: Masks,
    weights: jax.Array,
    previous: Variables,
    *,
    eta: ArrayLike = 1.0,
) -> Variables:
    """Takes a server step of size eta: ``w - eta sum_k n_k (w - w_k) / sum_k n_k``.

    ``eta=1`` is the weighted mean, up to rounding. Use
    ``functools.partial(pseudo_gradient, eta=...)`` where a value merge is expected.

    >>> stacked, kept = {"w": jnp.array([[1.0], [3.0]])}, {"w": jnp.ones((2, 1), bool)}
    >>> weights, previous = jnp.array([1, 1]), {"w": jnp.zeros(1)}
    >>> pseudo_gradient(stacked, kept, weights, previous, eta=0.5)
    {'w': Array([1.], dtype=float32)}
    """

    @_others_averaged
    def stepped(
        stacked: Variables, masks: Masks, weights: jax.Array, previous: Variables
    ) -> Variables:
        del masks
        gaps = jax.tree.map(lambda old, new: old[None] - new, previous, stacked)
        step = weighted_mean(gaps, weights)
        return jax.tree.map(lambda old, gap: old - eta * gap, previous, step)

    return stepped(stacked, masks, weights, previous)


VALUES: dict[str, ValueMerge] = {
    "median": median,
    "absolute-maximum": absolute_maximum,
    "absolute-minimum": absolute_minimum,
    "tanh": tanh,
    "pseudo-gradient": pseudo_gradient,
    "trimmed-mean": robust.trimmed_mean,
    "krum": robust.krum,
    "multi-krum": robust.multi_krum,
    "geometric-median": robust.geometric_median,
}
"""Value merges by name; the last four are explained in `robust`."""

NAMES = ("mean", "nonzero", *VALUES)
"""All merges that `streaming.aggregate` knows; the first two are sums over clients."""

WITHSTANDING = ("trimmed-mean", "krum", "multi-krum")
"""Those that are told how many attackers to withstand."""


def withstanding(merge: str, attackers: ArrayLike) -> ValueMerge:
    """Returns a merge of `WITHSTANDING` against a share of hostile clients.

    Args:
      merge: its name.
      attackers: share of the clients of a round, at least 0 and below 0.5.

    Raises:
      ValueError: for a merge that has no use for it, or a share out of range.
    """
    if merge not in WITHSTANDING:
        raise ValueError(
            f"the merge {merge!r} does not ask how many attackers to withstand: "
            f"{', '.join(WITHSTANDING)} do"
        )
    robust.check_attackers(attackers)
    rule: Callable[..., Variables] = VALUES[merge]
    return partial(rule, attackers=attackers)


def value_merge(merge: str | ValueMerge) -> ValueMerge:
    """Returns the value merge of a name of `VALUES`, or a function as it is.

    Raises:
      ValueError: for an unknown name.
    """
    if not isinstance(merge, str):
        return merge
    if merge not in VALUES:
        raise ValueError(f"unknown merge {merge!r}: one of {', '.join(NAMES)}")
    return VALUES[merge]
