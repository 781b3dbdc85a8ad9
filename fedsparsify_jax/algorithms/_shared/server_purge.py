"""The purge on the server after every merge."""

from collections.abc import Callable

from fedsparsify_jax.masks import apply
from fedsparsify_jax.method import Context, ServerTransform, Uploads, no_state
from fedsparsify_jax.pruning.patterns import Select, selector
from fedsparsify_jax.types import Key, Masks, Prunable, PyTree, Scope, Scores, Variables


def purge_by(
    importance: Callable[[Variables, Context], Scores],
    *,
    scope: Scope = "global",
    prunable: Prunable | None = None,
    select: Select | None = None,
    init: Callable[[Variables, Masks], PyTree] = no_state,
    advance: Callable[[Variables, Context], PyTree] | None = None,
) -> ServerTransform:
    """Builds the server's step that keeps the most important weights.

    As many as the round's target sparsity leaves, within the masks so far.

    Args:
      importance: of the merged model in a round: scores of its structure.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.
      select: any other choice of masks, in place of scope and prunable.
      init: what the importance needs in ``context.server``.
      advance: of the merged model and the round: what it needs now, before the purge;
        None for what never changes.

    Example:
      >>> import jax.numpy as jnp
      >>> w, kept = {"w": jnp.array([1.0, -3.0])}, {"w": jnp.array([True, True])}
      >>> context = Context(2, jnp.float32(0.5), w, kept, (), ())
      >>> purge = purge_by(lambda model, context: model)
      >>> purge.update(None, w, kept, None, context)[0]
      {'w': Array([1., 0.], dtype=float32)}
    """

    select = select or selector(scope=scope, prunable=prunable)

    def purge(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        del key, uploads
        if advance is not None:
            context = context._replace(server=advance(variables, context))
        masks = select(importance(variables, context), context.sparsity, masks)
        return apply(masks, variables), masks, context.server

    return ServerTransform(init, purge)
