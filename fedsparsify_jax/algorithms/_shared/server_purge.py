"""What methods that purge on the server after every merge share."""

from collections.abc import Callable

from fedsparsify_jax.masks import apply
from fedsparsify_jax.method import Context, Uploads
from fedsparsify_jax.pruning.selection import prune
from fedsparsify_jax.types import Key, Masks, Prunable, PyTree, Scores, Variables

ServerUpdate = Callable[
    [Key, Variables, Masks, Uploads, Context], tuple[Variables, Masks, PyTree]
]


def purge_by(
    importance: Callable[[Variables, Context], Scores],
    *,
    scope: str = "global",
    prunable: Prunable | None = None,
) -> ServerUpdate:
    """`hooks.Method.server_update` that keeps the most important weights.

    As many as the round's target sparsity leaves, within the masks so far; the
    method's state on the server stays as it is.

    Args:
      importance: of the merged model in a round: scores of its structure.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.

    Example:
      >>> import jax.numpy as jnp
      >>> w, kept = {"w": jnp.array([1.0, -3.0])}, {"w": jnp.array([True, True])}
      >>> context = Context(2, jnp.float32(0.5), w, kept, (), ())
      >>> purge = purge_by(lambda model, context: model)
      >>> purge(None, w, kept, None, context)[0]
      {'w': Array([1., 0.], dtype=float32)}
    """

    def purge(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        del key, uploads
        masks = prune(
            importance(variables, context),
            context.sparsity,
            scope=scope,
            within=masks,
            prunable=prunable,
        )
        return apply(masks, variables), masks, context.server

    return purge
