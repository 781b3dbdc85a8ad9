"""A moving average of the global model, kept on the server beside the training.

After round t, with the model w_t and the masks m_t of any algorithm and the decay d,

    a_t  =  m_t * ((1 - r_t) a_{t-1} + r_t w_t),    r_t = (1 - d) / (1 - d^t)

so a_1 = w_1: the bias towards the start is corrected, and the first, random model has
no part in it. Under masks that only shrink, a_t is the weighted mean of w_1 ... w_t
with weights d^(t-s), and exactly as sparse as w_t; a weight that was pruned and grows
again starts from zero, as it does in training.

Training goes on from w_t and no client ever sees a_t, so the bytes sent are the same.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks, trees
from fedsparsify_jax.engine.wrappers.around import Around, around, copied
from fedsparsify_jax.types import (
    FederatedAlgorithm,
    PyTree,
    RoundInfo,
    State,
    Variables,
)


class Averaged(NamedTuple):
    """``State.server`` of an algorithm whose global model is averaged."""

    method: PyTree  # what the algorithm itself keeps on the server
    average: Variables  # a_t


def moving_average(
    average: Variables, variables: Variables, decay: ArrayLike, t: ArrayLike
) -> Variables:
    """Takes one step of the bias-corrected average; the masks come after it.

    Leaves that are not floats (counters) are taken as they are.

    Args:
      average: a_{t-1}; does not matter for t = 1.
      variables: w_t, the same structure.
      decay: d in [0, 1); may be traced.
      t: the round, from 1.

    Example:
      >>> step = moving_average({"w": jnp.ones(1)}, {"w": jnp.zeros(1)}, 0.5, 2)
      >>> step["w"].round(4)
      Array([0.3333], dtype=float32)
    """
    d = jnp.asarray(decay, jnp.float32)
    rate = (1 - d) / (1 - d ** jnp.asarray(t, jnp.float32))

    def mix(old: jax.Array, new: jax.Array) -> jax.Array:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return ((1 - rate) * old + rate * new).astype(new.dtype)

    mixed: Variables = jax.tree.map(mix, average, variables)
    return mixed


def with_ema(
    decay: ArrayLike | None, algorithm: FederatedAlgorithm, *, always: bool = False
) -> FederatedAlgorithm:
    """Makes the average of the global model the algorithm's ``model``.

    Its own ``model`` hook, and its ``variants``, are applied to the average of what it
    trains, and its ``finish`` starts from the average: post-training works on what is
    taken away.

    Args:
      decay: d in [0, 1); 0 averages nothing, None leaves the algorithm as it is. May be
        traced.
      algorithm: any.
      always: whether rounds in which no upload counts make a new model, too.

    Raises:
      ValueError: for a decay outside [0, 1), if it is not traced.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> from fedsparsify_jax import algorithms
      >>> smooth = with_ema(0.9, algorithms.fedavg(model.apply, local_epochs=1))
      >>> state = smooth.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(smooth.step)(jax.random.key(2), state, clients)
      >>> jax.tree.structure(smooth.model(state)) == jax.tree.structure(state.variables)
      True
    """
    if decay is None:
        return algorithm
    if isinstance(decay, int | float) and not 0 <= decay < 1:
        raise ValueError(f"server_ema is {decay}: it must be at least 0 and below 1")

    def after(
        old: State, average: Variables, new: State, info: RoundInfo
    ) -> tuple[State, Variables]:
        mixed = moving_average(average, new.variables, decay, new.round)
        changed = (info.merged > 0) | always  # else the round changes nothing
        return new, trees.where(changed, masks.apply(new.masks, mixed), average)

    def taken(state: State, average: Variables) -> State:
        return state._replace(variables=average)

    return around(algorithm, Around(copied, after, taken=taken), Averaged)
