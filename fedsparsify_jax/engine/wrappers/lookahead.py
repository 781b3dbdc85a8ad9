"""A look-ahead: clients start where the last move leads, a little beyond the model.

With the models w_t of any algorithm, its masks m_t and the factor l, the clients of
round t + 1 start from

    w_t + l m_t * (w_t - w_{t-1})

and the server remembers one model. This is FedACG's accelerated model (Kim, Kim and
Han, "Communication-Efficient Federated Learning with Accelerated Client Gradient",
CVPR 2024, arXiv 2201.03172, algorithm 1): its momentum, the mean move of the clients
plus l times the momentum before it, is w_t - w_{t-1}. As its first form does, the
server sends the point that the clients start from, so no byte more is sent. Its
proximal term is that of `algorithms._shared.proximal`, and left out here.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import trees
from fedsparsify_jax.engine.wrappers.around import Around, around, copied
from fedsparsify_jax.types import (
    FederatedAlgorithm,
    Masks,
    PyTree,
    RoundInfo,
    State,
    Variables,
)


class Ahead(NamedTuple):
    """``State.server`` of an algorithm whose clients start beyond the model."""

    method: PyTree  # what the algorithm itself keeps on the server
    before: Variables  # w_{t-1}


def beyond(
    before: Variables, variables: Variables, kept: Masks, factor: ArrayLike
) -> Variables:
    """Returns ``w + l (w - w_before)`` for the weights that are kept.

    Pruned weights, and other collections than the parameters, are as in ``variables``:
    a variance beyond the model's might be negative.

    Args:
      before: w_{t-1}.
      variables: w_t, the same structure.
      kept: masks of the same structure.
      factor: l; may be traced.

    Example:
      >>> old, w = {"params": jnp.zeros(2)}, {"params": jnp.array([1.0, 2.0])}
      >>> beyond(old, w, {"params": jnp.array([True, False])}, 0.5)["params"].tolist()
      [1.5, 2.0]
    """

    def ahead(old: jax.Array, new: jax.Array, mask: jax.Array) -> jax.Array:
        moved = new + jnp.asarray(factor, new.dtype) * (new - old)
        return jnp.where(mask, moved, new)

    params = jax.tree.map(ahead, before["params"], variables["params"], kept["params"])
    return variables | {"params": params}


def with_lookahead(
    factor: ArrayLike | None, algorithm: FederatedAlgorithm, *, always: bool = False
) -> FederatedAlgorithm:
    """Lets the clients of an algorithm start beyond the model.

    Args:
      factor: l in [0, 1); None leaves the algorithm as it is. May be traced.
      algorithm: any.
      always: whether rounds in which no upload counts make a new model, too.

    Raises:
      ValueError: for a factor outside [0, 1), if it is not traced.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> from fedsparsify_jax import algorithms
      >>> fast = with_lookahead(0.5, algorithms.fedavg(model.apply, local_epochs=1))
      >>> state = fast.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> first, info = jax.jit(fast.step)(jax.random.key(2), state, clients)
      >>> bool(jnp.array_equal(*[
      ...     jax.tree.leaves(variables["params"])[0]
      ...     for variables in (first.server.before, state.variables)
      ... ]))
      True
    """
    if factor is None:
        return algorithm
    if isinstance(factor, int | float) and not 0 <= factor < 1:
        raise ValueError(
            f"server_lookahead is {factor}: it must be at least 0 and below 1"
        )

    def start(state: State, before: Variables) -> State:
        ahead = beyond(before, state.variables, state.masks, factor)
        return state._replace(variables=ahead)

    def after(
        old: State, before: Variables, new: State, info: RoundInfo
    ) -> tuple[State, Variables]:
        changed = (info.merged > 0) | always  # else the model stays where it was
        variables = trees.where(changed, new.variables, old.variables)
        before = trees.where(changed, old.variables, before)
        return new._replace(variables=variables), before

    return around(algorithm, Around(copied, after, before=start), Ahead)
