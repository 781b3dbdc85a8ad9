"""The merges of methods, `method.Method.aggregate`, by name.

Means and votes are sums over the clients and are added up while they train. Merges that
must see all clients at once, such as the median, are `method.stacked`.
"""

from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.aggregation.merges import ValueMerge, value_merge
from fedsparsify_jax.method import Aggregate, Context, Uploads, stacked
from fedsparsify_jax.types import Masks, PyTree, Variables, VoteRule


class _Counts(NamedTuple):
    votes: PyTree  # int32: how many clients keep each entry
    voters: jax.Array  # int32 scalar


def aggregate(
    merge: str | ValueMerge = "mean", vote_rule: VoteRule | None = None
) -> Aggregate:
    """Builds the merge of a name, under voted masks or the round's.

    Args:
      merge: a name of `merges.NAMES` or a function of that signature.
      vote_rule: ``"authors"`` or ``"strict"``, see `masks.majority_vote`; ``"none"``
        keeps what any uploading client keeps. None is for methods whose clients all
        have the masks of the round, which stay.

    Raises:
      ValueError: for an unknown name or rule.

    Example:
      >>> uploads = Uploads(
      ...     variables={"w": jnp.array([[1.0], [4.0]])},
      ...     masks={"w": jnp.ones((2, 1), bool)},
      ...     extra=(),
      ...     ids=jnp.arange(2),
      ...     sizes=jnp.array([2.0, 1.0]),
      ...     shares=jnp.array([2.0, 1.0]) / 3,
      ... )
      >>> w, kept = {"w": jnp.zeros(1)}, {"w": jnp.ones(1, bool)}
      >>> context = Context(1, 0.0, w, kept, (), ())
      >>> mean = aggregate("mean")
      >>> mean.merge(mean.sums(uploads, context), uploads, context)[0]
      {'w': Array([2.], dtype=float32)}
    """
    if vote_rule not in (None, *get_args(VoteRule)):
        rules = ", ".join(get_args(VoteRule))
        raise ValueError(f"unknown vote rule {vote_rule!r}: one of {rules}")
    if merge in ("mean", "nonzero"):
        return _mean(nonzero=merge == "nonzero", vote_rule=vote_rule)
    values = value_merge(merge)

    def merge_all(uploads: Uploads, context: Context) -> tuple[Variables, Masks]:
        merged = values(
            uploads.variables, uploads.masks, uploads.sizes, context.variables
        )
        counts = None if vote_rule is None else _count(uploads)
        return _under_masks(merged, counts, vote_rule, context)

    return stacked(merge_all)


def _count(uploads: Uploads) -> _Counts:
    present = uploads.shares > 0
    votes = mask_algebra.votes(uploads.masks, present)
    return _Counts(votes, jnp.sum(present, dtype=jnp.int32))


def _under_masks(
    variables: Variables,
    counts: _Counts | None,
    rule: VoteRule | None,
    context: Context,
) -> tuple[Variables, Masks]:
    """Returns the merged model under the round's masks or the elected ones."""
    if counts is None or rule is None:
        return variables, context.masks
    if rule == "none":
        masks = jax.tree.map(lambda votes: votes > 0, counts.votes)
    else:
        masks = mask_algebra.elect(counts.votes, counts.voters, rule=rule)
    return mask_algebra.apply(masks, variables), masks


def _mean(*, nonzero: bool, vote_rule: VoteRule | None) -> Aggregate:
    """Builds the mean over all clients, or over those that keep an entry."""

    def sums(uploads: Uploads, context: Context) -> tuple[means.Sums, _Counts | None]:
        variables, shares = uploads.variables, uploads.shares
        counts = None if vote_rule is None else _count(uploads)
        if nonzero:
            return means.nonzero_sums(variables, uploads.masks, shares), counts
        if vote_rule is not None:  # clients' masks are their own
            variables = mask_algebra.apply(uploads.masks, variables)
        return means.sums(variables, shares), counts

    def merge(
        sums: tuple[means.Sums, _Counts | None], uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        values, counts = sums
        merged = means.mean(values, like=context.variables)
        return _under_masks(merged, counts, vote_rule, context)

    return Aggregate(sums=sums, merge=merge)
