"""The surviving weights of a dense layer as padded index lists (ELLPACK).

A row holds the places of up to ``slots`` inputs that one output reads. An output with
more survivors has several rows, so that few long rows do not make all of them long;
a product of 0s and 1s adds the rows of an output up again. Activations are held
batch-last, ``[inputs, B]``, so that every gathered row is contiguous.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Lists(NamedTuple):
    """The places of the survivors of a layer."""

    inputs: jax.Array  # [rows, slots] int32: what a slot reads, 0 where it is padding
    valid: jax.Array  # [rows, slots] bool: False for padding
    owner: jax.Array  # [rows] int32: the output that a row belongs to
    owned: jax.Array  # [outputs, rows] float32: 1 where a row belongs to an output


def rows_needed(mask: jax.Array, slots: int) -> jax.Array:
    """Rows that a mask ``[inputs, outputs]`` takes, at least one an output: int32.

    >>> rows_needed(jnp.array([[True, False], [True, False], [True, True]]), 2)
    Array(3, dtype=int32)
    """
    return jnp.sum(_rows_of_outputs(mask, slots))


def _rows_of_outputs(mask: jax.Array, slots: int) -> jax.Array:
    count = jnp.sum(mask, axis=0, dtype=jnp.int32)
    return jnp.maximum(-(-count // slots), 1)


def index_lists(mask: jax.Array, rows: int, slots: int) -> Lists:
    """Lists a mask's entries ``[inputs, outputs]``; those past ``rows`` are left out.

    Example:
      >>> lists = index_lists(jnp.array([[True, False], [False, False], [True, True]]),
      ...                     rows=2, slots=2)
      >>> lists.inputs.tolist(), lists.valid.tolist(), lists.owner.tolist()
      ([[0, 2], [2, 0]], [[True, True], [True, False]], [0, 1])
    """
    inputs, outputs = mask.shape
    ends = jnp.cumsum(_rows_of_outputs(mask, slots))
    starts = jnp.concatenate([jnp.zeros(1, ends.dtype), ends[:-1]])
    rank = jnp.cumsum(mask, axis=0, dtype=jnp.int32) - 1
    place = starts[None] * slots + rank
    place = jnp.where(mask, place, rows * slots)  # out of range: not written
    source = jnp.broadcast_to(jnp.arange(inputs, dtype=jnp.int32)[:, None], mask.shape)
    empty = jnp.full(rows * slots, -1, jnp.int32)
    filled = empty.at[place.ravel()].set(source.ravel(), mode="drop")
    filled = filled.reshape(rows, slots)
    owner = jnp.searchsorted(ends, jnp.arange(rows), side="right").astype(jnp.int32)
    owned = owner[None] == jnp.arange(outputs)[:, None]
    return Lists(
        jnp.maximum(filled, 0),
        filled >= 0,
        jnp.minimum(owner, outputs - 1),
        owned.astype(jnp.float32),
    )


def pack(lists: Lists, kernel: jax.Array) -> jax.Array:
    """Gathers listed entries ``[rows, slots]`` of a kernel ``[inputs, outputs]``."""
    values = kernel.at[lists.inputs, lists.owner[:, None]].get(mode="clip")
    return jnp.where(lists.valid, values, jnp.zeros_like(values))


def unpack(lists: Lists, values: jax.Array, kernel: jax.Array) -> jax.Array:
    """Replaces the listed entries of a kernel ``[inputs, outputs]``."""
    place = jnp.where(lists.valid, lists.inputs, kernel.shape[0])
    return kernel.at[place, lists.owner[:, None]].set(values, mode="drop")


def matmul(lists: Lists, values: jax.Array, x: jax.Array) -> jax.Array:
    """Multiplies ``kernel.T @ x`` with the listed entries only.

    Args:
      lists: the places of the survivors; of padding the values must be zero.
      values: their weights ``[rows, slots]``.
      x: ``[inputs, B]``.

    Returns:
      ``[outputs, B]``.

    Example:
      >>> kernel = jnp.array([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]])
      >>> lists = index_lists(kernel != 0, rows=2, slots=2)
      >>> matmul(lists, pack(lists, kernel), jnp.array([[1.0], [10.0], [100.0]]))
      Array([[201.],
             [300.]], dtype=float32)
    """
    partial = jnp.einsum("rs,rsb->rb", values, x.at[lists.inputs].get(mode="clip"))
    if lists.owned.shape[0] == lists.owned.shape[1]:  # every output has one row
        return partial
    return lists.owned @ partial
