"""Computation in few bits, with parameters that stay in 32.

Micikevicius et al., *Mixed Precision Training*, ICLR 2018, arXiv 1710.03740: the
forward pass and its derivative round their inputs, the optimizer adds to full numbers.
bfloat16 has float32's range, so losses need no scale (Kalamkar et al., arXiv
1905.12322).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from fedsparsify_jax.types import Variables


def lowered(
    variables: Variables, x: jax.Array, dtype: DTypeLike | None
) -> tuple[Variables, jax.Array]:
    """Returns parameters and inputs in the dtype that a network computes in.

    Batch statistics stay as they are: layers average in 32 bits.

    Args:
      variables: of a model; float32 leaves of ``params`` are rounded.
      x: the network's inputs; integers, such as tokens, stay.
      dtype: such as ``jnp.bfloat16``; None for all as it is.

    Example:
      >>> variables, x = {"params": {"w": jnp.ones(2)}}, jnp.arange(3)
      >>> variables, x = lowered(variables, x, jnp.bfloat16)
      >>> variables["params"]["w"].dtype, x.dtype
      (dtype(bfloat16), dtype('int32'))
    """
    if dtype is None:
        return variables, x

    def lower(leaf: Any) -> Any:
        return leaf.astype(dtype) if leaf.dtype == jnp.float32 else leaf

    return {**variables, "params": jax.tree.map(lower, variables["params"])}, lower(x)


def raised(tree: Any, dtype: DTypeLike | None) -> Any:
    """Returns outputs, or changed variables, in float32 again.

    >>> raised(jnp.ones(2, jnp.bfloat16), jnp.bfloat16).dtype
    dtype('float32')
    """
    if dtype is None:
        return tree
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.float32) if leaf.dtype == dtype else leaf, tree
    )
