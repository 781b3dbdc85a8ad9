"""Criteria by which weights are removed, for methods that purge on a schedule.

With g the gradient of a client's step at w, and p_k = n_k / sum_j n_j:

    magnitude  |w|
    movement   the sum over steps of -g w (Sanh, Wolf and Rush, *Movement Pruning*,
               arXiv 2005.07683)
    taylor     the mean over steps of |g w| (Molchanov et al., *Importance Estimation
               for Neural Network Pruning*, arXiv 1906.10771)
    fisher     w^2 times the mean over steps of g^2 (Theis et al., *Faster gaze
               prediction with dense networks and Fisher pruning*, arXiv 1801.05787)

A client that purges has its own steps of the round. The server has, for movement,

    S  <-  S + w (w' - w),    w' the merged model of a round that starts from w

which is the sum in which the change of the mean model stands for the steps: it needs no
upload. For taylor and fisher clients send their mean over steps, a number for each of
the weights that they keep, in rounds that purge; the server takes the mean with p_k.
Those gradients are the training's, of its batches, so nothing is computed twice.
Movement pruning as published lets pruned weights return; here they do not. Under
Powerpropagation the gradients are those of the roots.
"""

from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.method import (
    Aggregate,
    Client,
    Context,
    GradFn,
    GradientTransform,
    Local,
    Method,
    Upload,
    Uploader,
    Uploads,
    no_state,
)
from fedsparsify_jax.metrics.communication import BYTES_PER_NUMBER
from fedsparsify_jax.pruning.patterns import Select
from fedsparsify_jax.pruning.selection import magnitude
from fedsparsify_jax.types import (
    Criterion,
    Key,
    Masks,
    Prunable,
    PyTree,
    Scores,
    Variables,
)


class Steps(NamedTuple):
    """Sums of a client over its steps."""

    total: PyTree  # of the parameters
    number: jax.Array  # float32 scalar: of the steps


def check(criterion: str) -> None:
    """Refuses what is no criterion.

    Raises:
      ValueError: naming those that there are.
    """
    if criterion not in get_args(Criterion):
        names = ", ".join(get_args(Criterion))
        raise ValueError(f"unknown criterion {criterion!r}: one of {names}")


def term(criterion: Criterion, w: jax.Array, g: jax.Array) -> jax.Array:
    """Returns what a step adds to a weight's score.

    >>> w, g = jnp.array([2.0, 2.0]), jnp.array([3.0, -3.0])
    >>> [term(c, w, g).tolist() for c in ("movement", "taylor", "fisher")]
    [[-6.0, 6.0], [6.0, 6.0], [9.0, 9.0]]
    """
    if criterion == "movement":
        return -g * w
    return jnp.abs(g * w) if criterion == "taylor" else g * g


def over_steps(criterion: Criterion) -> GradientTransform:
    """Builds the gradient that adds up a criterion's terms over a client's steps."""

    def init(variables: Variables) -> Steps:
        zeros = jax.tree.map(jnp.zeros_like, variables["params"])
        return Steps(total=zeros, number=jnp.float32(0))

    def update(
        grad_fn: GradFn, variables: Variables, memory: Steps, context: Context
    ) -> tuple[Any, Variables, Steps]:
        value, gradients = grad_fn(variables)
        total = jax.tree.map(
            lambda old, w, g: old + term(criterion, w, g),
            memory.total,
            variables["params"],
            gradients["params"],
        )
        return value, gradients, Steps(total=total, number=memory.number + 1)

    return GradientTransform(init, update)


def mean_of(steps: Steps) -> PyTree:
    """Returns the mean over a client's steps; zeros if it made none."""
    number = jnp.maximum(steps.number, 1)
    return jax.tree.map(lambda leaf: (leaf / number).astype(leaf.dtype), steps.total)


def scores_of(criterion: Criterion, variables: Variables, means: PyTree) -> Scores:
    """Returns the scores of a model, given means over steps of its parameters."""
    if criterion == "fisher":
        means = jax.tree.map(lambda w, f: w * w * f, variables["params"], means)
    return jax.tree.map(jnp.zeros_like, variables) | {"params": means}


def scores_of_client(criterion: Criterion, local: Local) -> Scores:
    """Returns a client's scores of its trained model, by its steps of the round."""
    if criterion == "magnitude":
        return magnitude(local.variables)
    return scores_of(criterion, local.variables, mean_of(local.memory))


def purging(
    method: Method, criterion: Criterion, select: Select, *, squared: bool = False
) -> Method:
    """Returns the method whose server purges by a criterion after every merge.

    Args:
      method: without a server's step.
      criterion: see above.
      select: scores to masks, see `pruning.patterns.selector`.
      squared: whether magnitudes are squares, which add up to l2 norms.

    Raises:
      ValueError: for an unknown criterion.
    """
    check(criterion)
    if criterion == "magnitude":
        by = _square if squared else magnitude
        purge = purge_by(lambda variables, context: by(variables), select=select)
        return method._replace(server=purge)
    if criterion == "movement":
        return method._replace(server=_by_movement(select))
    return method._replace(
        gradient=over_steps(criterion),
        upload=Uploader(no_state, _sending(select, method.prunable)),
        aggregate=_by_uploads(method.aggregate, criterion, select),
    )


def _square(variables: Variables) -> Scores:
    return jax.tree.map(jnp.square, variables)


def _by_movement(select: Select) -> Any:
    def start(variables: Variables, masks: Masks) -> PyTree:
        return jax.tree.map(jnp.zeros_like, variables["params"])

    def advance(variables: Variables, context: Context) -> PyTree:
        return jax.tree.map(
            lambda total, new, w: total + w * (new - w),
            context.server,
            variables["params"],
            context.variables["params"],
        )

    return purge_by(
        lambda variables, context: scores_of("movement", variables, context.server),
        select=select,
        init=start,
        advance=advance,
    )


def _sending(select: Select, prunable: Prunable | None) -> Any:
    """Builds the upload of means over steps, of kept weights in rounds that purge.

    How many weights a purge leaves does not depend on their scores, so that everybody
    knows from the masks and the target whether there will be one.
    """

    def send(
        key: Key, local: Local, context: Context, client: Client
    ) -> tuple[Upload, PyTree]:
        del key
        before = context.masks
        after = select(magnitude(context.variables), context.sparsity, before)
        purges = trees.nonzeros(after) < trees.nonzeros(before)
        means = mask_algebra.apply(local.masks["params"], mean_of(local.memory))
        means = jax.tree.map(lambda leaf: jnp.where(purges, leaf, 0), means)
        kept = trees.nonzeros(mask_algebra.prunable_only(local.masks, prunable))
        upload = Upload(
            variables=local.variables,
            masks=local.masks,
            extra=means,
            extra_bytes=jnp.where(purges, BYTES_PER_NUMBER * kept, 0).astype(
                jnp.uint32
            ),
        )
        return upload, client.state

    return send


def _by_uploads(inner: Aggregate, criterion: Criterion, select: Select) -> Aggregate:
    """Builds the merge that also adds up the clients' scores, and purges by them."""

    def sums(uploads: Uploads, context: Context) -> tuple[PyTree, PyTree]:
        scores = trees.weighted_sum(uploads.extra, uploads.shares)
        return inner.sums(uploads, context), scores

    def merge(
        sums: tuple[PyTree, PyTree], uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks]:
        variables, masks = inner.merge(sums[0], uploads, context)
        scores = scores_of(criterion, variables, sums[1])
        masks = select(scores, context.sparsity, masks)
        return mask_algebra.apply(masks, variables), masks

    return Aggregate(sums, merge, inner.stacks)
