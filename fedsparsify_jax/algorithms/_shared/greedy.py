"""The weights worth their time: PruneFL's greedy choice without sorting the model.

With importances a_j >= 0, times t_j > 0 and a fixed time c, a set M of weights gains

    Gamma(M) = sum_M a_j / (c + sum_M t_j)

a unit of time. Starting from weights that stay, the greedy rule adds candidates by
decreasing a_j / t_j while the ratio exceeds Gamma so far.

That set needs no order. Adding j with a_j / t_j > Gamma(M) raises Gamma, but not past
a_j / t_j (the mediant of two fractions lies between them); adding one with a smaller
ratio lowers it. So the greedy rule ends at the largest Gamma, G, and has taken exactly
the candidates with a_j / t_j > G. And G is the root of

    F(x) = A - x B + sum over candidates of max(0, a_j - x t_j),

where A and B are numerator and denominator of what stays: F falls strictly, and at the
root the numerator of what was taken is x times its denominator. The bits of the largest
float with F >= 0 are found one by one, 31 sums over the model.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.masks import prunable_leaves
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.pruning.threshold import largest_true
from fedsparsify_jax.types import Masks, Prunable, PyTree, Scores

_TINY = float(jnp.finfo(jnp.float32).tiny)


def ratios(importance: Scores, times: PyTree) -> Scores:
    """Returns ``a_j / t_j``; ``times`` has one number a leaf."""
    return jax.tree.map(lambda a, t: a / t, importance, times)


def most_efficient(
    importance: Scores,
    times: PyTree,
    stay: Masks,
    *,
    fixed_time: ArrayLike,
    within: Masks | None = None,
    prunable: Prunable | None = None,
) -> Masks:
    """Keeps what stays, and the candidates that raise Gamma.

    Exact up to the rounding of the sums: candidates within that of G may go either way.

    Args:
      importance: non-negative float tree with the structure of the variables.
      times: seconds (any unit) a weight, one number a leaf of the same structure.
      stay: bool tree of weights that are kept whatever they gain.
      fixed_time: c > 0, in the same unit; may be traced.
      within: bool tree of the candidates; everything by default.
      prunable: path of a leaf to whether it may be pruned; other leaves are kept whole
        and their time counts as fixed only if ``fixed_time`` includes it.

    References:
      Jiang et al., Model Pruning Enables Efficient Federated Learning on Edge Devices
      (arXiv 1909.12326), adaptive pruning.

    Example:
      >>> stay = {"w": jnp.array([True, False, False])}
      >>> most_efficient({"w": jnp.array([2.0, 3.0, 1.0])}, {"w": 1.0}, stay,
      ...                fixed_time=1.0)
      {'w': Array([ True,  True, False], dtype=bool)}
    """
    chosen = jax.tree.leaves(prunable_leaves(importance, prunable))
    columns = zip(
        jax.tree.leaves(importance),
        jax.tree.leaves(times),
        jax.tree.leaves(stay),
        jax.tree.leaves(stay if within is None else within),
        chosen,
        strict=True,
    )
    parts = [
        (a, t, kept, ~kept if within is None else allowed & ~kept)
        for a, t, kept, allowed, use in columns
        if use
    ]
    # Scaled to a largest importance of 1, so that sums of tiny squares do not vanish.
    largest = jnp.float32(_TINY)
    for a, *_ in parts:
        largest = jnp.maximum(largest, jnp.max(a))
    gained = sum((jnp.sum(jnp.where(s, a / largest, 0)) for a, _, s, _ in parts), 0.0)
    spent = sum((t * jnp.sum(s) for _, t, s, _ in parts), jnp.asarray(fixed_time))
    spent = jnp.maximum(spent, _TINY)

    def worth_it(bits: jax.Array) -> jax.Array:
        x = jax.lax.bitcast_convert_type(bits, jnp.float32)
        surplus = gained - x * spent
        for a, t, _, candidates in parts:
            gain = jnp.maximum(a / largest - x * t, 0.0)
            surplus += jnp.sum(jnp.where(candidates, gain, 0.0))
        return jnp.isfinite(x) & (surplus >= 0)

    gamma = jax.lax.bitcast_convert_type(largest_true(worth_it, 31), jnp.float32)
    everything = jax.tree.map(jnp.ones_like, stay) if within is None else within
    structure = jax.tree.structure(importance)
    uses = jax.tree.unflatten(structure, chosen)
    return jax.tree.map(
        lambda use, a, t, s, ok: (
            s | (ok & (a / largest / t > gamma)) if use else jnp.ones_like(s)
        ),
        uses,
        importance,
        times,
        stay,
        everything,
    )


def most_important(
    scores: Scores,
    stay: Masks,
    sparsity: ArrayLike,
    *,
    within: Masks | None = None,
    prunable: Prunable | None = None,
) -> Masks:
    """Keeps what stays and the best others, at exactly the given sparsity.

    If more stays than the sparsity allows, the best of that are kept and nothing else;
    if ``within`` has fewer, all of it is.

    Args:
      scores: float tree with the structure of the variables.
      stay: bool tree of weights that go before all others.
      sparsity: s in [0, 1]; may be traced.
      within: bool tree that the result may not leave.
      prunable: path of a leaf to whether it may be pruned.

    Example:
      >>> stay = {"w": jnp.array([True, False, False, False])}
      >>> most_important({"w": jnp.array([0.0, 3.0, 1.0, 2.0])}, stay, 0.5)
      {'w': Array([ True,  True, False, False], dtype=bool)}
    """
    first = prune(scores, sparsity, within=stay, prunable=prunable)
    lifted = jax.tree.map(lambda use, s: jnp.where(use, jnp.inf, s), first, scores)
    return prune(lifted, sparsity, within=within, prunable=prunable)
