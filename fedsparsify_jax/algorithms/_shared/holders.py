"""The mean over the clients that have an entry; what nobody has stays as it was."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.aggregation import means
from fedsparsify_jax.method import Aggregate, Context, Uploads
from fedsparsify_jax.types import Masks, PyTree, Variables


class Sums(NamedTuple):
    """Sums over clients that the merge needs."""

    models: means.Sums  # with v for its weight
    share: jax.Array  # of all clients, sum_k n_k
    missing: PyTree  # int32: how many clients lack each entry


def over_holders(*, by_examples: bool = True) -> Aggregate:
    """Builds the mean over the clients that have an entry; where none has, w stays.

    What all clients have is divided by their common weight, as in FedAvg, to the bit.

    Args:
      by_examples: whether clients count by their examples, and not all the same.
    """

    def sums(uploads: Uploads, context: Context) -> Sums:
        present = uploads.shares > 0
        shares = uploads.shares if by_examples else present.astype(jnp.float32)
        lacking = jax.tree.map(jnp.logical_not, uploads.masks)
        return Sums(
            models=means.nonzero_sums(uploads.variables, uploads.masks, shares),
            share=jnp.sum(shares),
            missing=mask_algebra.votes(lacking, present),
        )

    def merge(
        sums: Sums, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        del uploads
        v = jax.tree.map(
            lambda missing, weight: jnp.where(missing == 0, sums.share, weight),
            sums.missing,
            sums.models.weight,
        )
        mean = means.mean(means.Sums(sums.models.total, v), like=context.variables)
        new = jax.tree.map(
            lambda v, w, old: jnp.where(v > 0, w, old), v, mean, context.variables
        )
        return new, context.masks

    return Aggregate(sums=sums, merge=merge)
