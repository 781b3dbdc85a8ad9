"""The surviving weights of a dense layer as padded index lists (ELLPACK).

A row holds the places of up to ``slots`` inputs that one output reads. An output with
more survivors has several rows, so that few long rows do not make all of them long;
a product adds the rows of an output up again. Activations are held batch-last,
``[inputs, B]``, so that every row that is read is contiguous.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.training.compact import products


class Lists(NamedTuple):
    """The places of the survivors of a layer."""

    inputs: jax.Array  # [rows, slots] int32: what a slot reads, 0 where it is padding
    valid: jax.Array  # [rows, slots] bool: False for padding
    owner: jax.Array  # [rows] int32: the output that a row belongs to, ascending


def rows_needed(mask: jax.Array | np.ndarray, slots: int) -> Any:
    """Rows that a mask ``[inputs, outputs]`` takes, at least one an output: int32.

    Of a NumPy mask they are counted by NumPy, without a program for its shape.

    >>> rows_needed(jnp.array([[True, False], [True, False], [True, True]]), 2)
    Array(3, dtype=int32)
    """
    return _rows_of_outputs(mask, slots).sum(dtype=np.int32)


def _rows_of_outputs(mask: jax.Array | np.ndarray, slots: int) -> Any:
    count = mask.sum(axis=0, dtype=np.int32)
    return (-(-count // slots)).clip(min=1)


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
    return Lists(
        inputs=jnp.maximum(filled, 0),
        valid=filled >= 0,
        owner=jnp.minimum(owner, outputs - 1),
    )


def pack(lists: Lists, kernel: jax.Array) -> jax.Array:
    """Gathers listed entries ``[rows, slots]`` of a kernel ``[inputs, outputs]``."""
    values = kernel.at[lists.inputs, lists.owner[:, None]].get(mode="clip")
    return jnp.where(lists.valid, values, jnp.zeros_like(values))


def unpack(lists: Lists, values: jax.Array, kernel: jax.Array) -> jax.Array:
    """Replaces the listed entries of a kernel ``[inputs, outputs]``."""
    place = jnp.where(lists.valid, lists.inputs, kernel.shape[0])
    return kernel.at[place, lists.owner[:, None]].set(values, mode="drop")


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def matmul(lists: Lists, values: jax.Array, x: jax.Array, outputs: int) -> jax.Array:
    """Multiplies ``kernel.T @ x`` with the listed entries only.

    Args:
      lists: the places of the survivors; of padding the values must be zero.
      values: their weights ``[rows, slots]``.
      x: ``[inputs, B]``.
      outputs: of the kernel.

    Returns:
      ``[outputs, B]``.

    Example:
      >>> kernel = jnp.array([[1.0, 0.0], [0.0, 0.0], [2.0, 3.0]])
      >>> lists = index_lists(kernel != 0, rows=2, slots=2)
      >>> x = jnp.array([[1.0], [10.0], [100.0]])
      >>> matmul(lists, pack(lists, kernel), x, 2)
      Array([[201.],
             [300.]], dtype=float32)
    """
    return jax.lax.platform_dependent(
        lists.inputs,
        lists.owner,
        values,
        x,
        cpu=partial(products.looped, outputs=outputs),
        default=partial(products.gathered, outputs=outputs),
    )


Residuals = tuple[Lists, jax.Array, jax.Array]


def _forward(
    lists: Lists, values: jax.Array, x: jax.Array, outputs: int
) -> tuple[jax.Array, Residuals]:
    # One copy of x in this layout, instead of one for each of its two readers.
    x = jax.lax.optimization_barrier(x)
    return matmul(lists, values, x, outputs), (lists, values, x)


def _backward(
    outputs: int, residuals: Residuals, dy: jax.Array
) -> tuple[None, jax.Array, jax.Array]:
    lists, values, x = residuals

    def gathered(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs, owner, values, x, dy = operands
        product = partial(products.gathered, inputs, owner, outputs=outputs)
        return jax.vjp(product, values, x)[1](dy)

    def looped(*operands: jax.Array) -> tuple[jax.Array, jax.Array]:
        inputs, owner, values, x, dy = operands
        return (
            products.gradient_of_values(inputs, owner, x, dy),
            products.gradient_of_x(inputs, owner, values, dy, x.shape[0]),
        )

    by_values, by_x = jax.lax.platform_dependent(
        lists.inputs, lists.owner, values, x, dy, cpu=looped, default=gathered
    )
    return None, by_values, by_x


matmul.defvjp(_forward, _backward)
