"""Merges as methods use them: `hooks.Method.aggregate` by name.

Means and votes are sums over the clients, so they are `hooks.Streamed`; merges that
must see all clients at once, such as the median, are not.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.aggregation.merges import ValueMerge, merger, value_merge
from fedsparsify_jax.method import Aggregate, Context, Streamed, Uploads
from fedsparsify_jax.types import Masks, PyTree, Variables


def weighted_mean() -> Streamed:
    """FedAvg's merge under the masks that everybody had.

    >>> from fedsparsify_jax.method import Uploads
    >>> weights = jnp.array([2.0, 1.0])
    >>> uploads = Uploads({"w": jnp.array([[1.0], [4.0]])}, (), (), weights, ())
    >>> context = Context((), (), {"w": jnp.zeros(1)}, (), (), ())
    >>> weighted_mean()(uploads, context)[0]
    {'w': Array([2.], dtype=float32)}
    """

    def sums(uploads: Uploads, context: Context) -> means.Sums:
        del context
        return means.sums(uploads.variables, uploads.weights)

    def merge(sums: means.Sums, context: Context) -> tuple[Variables, Masks]:
        return means.mean(sums, like=context.variables), context.masks

    return Streamed(sums, merge)


def shared_masks(merge: str | ValueMerge) -> Aggregate:
    """The merge of a name where all clients have the round's masks.

    Args:
      merge: a name of `merges.VALUES` or a function of that signature.

    Raises:
      ValueError: for an unknown name.
    """
    return weighted_mean() if merge == "mean" else aggregate(merge, None)


class _Counted(NamedTuple):
    values: means.Sums
    votes: PyTree  # int32, how many keep each entry; () if nobody asks
    voters: PyTree  # int32 scalar; () likewise


def aggregate(merge: str | ValueMerge, vote_rule: str | None) -> Aggregate:
    """The merge of a name, under voted masks or the ones that everybody had.

    Args:
      merge: a name of `merges.VALUES` or a function of that signature.
      vote_rule: see `merges.merger`; None keeps the round's masks.

    Raises:
      ValueError: for an unknown name or rule.
    """
    if merge in ("mean", "nonzero"):
        merger("mean", vote_rule or "none")  # complains of unknown rules
        return _streamed(nonzero=merge == "nonzero", vote_rule=vote_rule)
    if vote_rule is None:
        values = value_merge(merge)

        def under_the_same(
            uploads: Uploads, context: Context
        ) -> tuple[Variables, Masks]:
            merged = values(*uploads[:2], uploads.weights, context.variables)
            return merged, context.masks

        return under_the_same
    elected = merger(merge, vote_rule)

    def under_elected(uploads: Uploads, context: Context) -> tuple[Variables, Masks]:
        return elected(*uploads[:2], uploads.weights, context.variables)

    return under_elected


def _streamed(*, nonzero: bool, vote_rule: str | None) -> Streamed:
    """A mean over all clients, or over those who kept an entry."""

    def sums(uploads: Uploads, context: Context) -> _Counted:
        del context
        variables, masks, _, weights, _ = uploads
        if nonzero:
            values = means.nonzero_sums(variables, masks, weights)
        else:
            kept = mask_algebra.apply(masks, variables)
            values = means.sums(kept, weights)
        if vote_rule is None:
            return _Counted(values, (), ())
        votes = mask_algebra.votes(masks, weights > 0)
        return _Counted(values, votes, jnp.sum(weights > 0, dtype=jnp.int32))

    def merge(counted: _Counted, context: Context) -> tuple[Variables, Masks]:
        variables = means.mean(counted.values, like=context.variables)
        match vote_rule:
            case None:
                return variables, context.masks
            case "none":
                masks = jax.tree.map(lambda count: count > 0, counted.votes)
            case rule:
                masks = mask_algebra.elect(counted.votes, counted.voters, rule=rule)
        return mask_algebra.apply(masks, variables), masks

    return Streamed(sums, merge)
