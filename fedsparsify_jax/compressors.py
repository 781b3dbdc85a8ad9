"""Changes in fewer bits: the largest entries of a model's change, or coarse numbers.

What is compressed is the change of a client's model, within the masks that it sends;
the receiver adds it to the model that it had sent out.

Coarse numbers are ``code * scale``. A code has at most 7 bits and a scale 16, so that
the product is exact in float32: however a compiler orders and fuses what follows, the
sender and the receiver have the same bits.

References:
  Aji and Heafield, Sparse Communication for Distributed Gradient Descent, arXiv
  1704.05021 (the largest entries); Alistarh et al., QSGD, arXiv 1610.02132 (unbiased
  rounding to few levels; here levels of the largest entry and not of the norm).
"""

import functools
from typing import NamedTuple, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.pruning.threshold import largest, sort_keys
from fedsparsify_jax.types import Key, Masks, PyTree, UploadCompression

KINDS = get_args(UploadCompression)
"""Forms of what clients upload."""
LEVELS = {"int8": 127, "int4": 7}
"""The largest code of a kind; the smallest one is its negative."""
BITS = {"int8": 8, "int4": 4}
"""Of a code in a message."""

_SCALE_BITS = 8  # of the significand that a scale leaves at zero
_SMALLEST = 2.0**-126  # normal float32


class Compression(NamedTuple):
    """A way to compress uploads."""

    kind: str  # one of `KINDS`, but "none"
    fraction: ArrayLike = 0.1  # of topk; may be traced
    error_feedback: bool = True


def compression_of(
    kind: str, fraction: ArrayLike | None, error_feedback: bool | None
) -> Compression | None:
    """Returns the compression that options of the engine ask for; None for none.

    Raises:
      ValueError: for an option out of range, or without a meaning.

    Example:
      >>> compression_of("topk", None, None)
      Compression(kind='topk', fraction=0.1, error_feedback=True)
      >>> compression_of("int8", None, None).error_feedback
      False
    """
    if kind not in KINDS:
        raise ValueError(f"unknown upload_compression {kind!r}: {', '.join(KINDS)}")
    if fraction is not None and kind != "topk":
        raise ValueError(
            f"topk_fraction goes with the upload_compression topk, not with {kind}"
        )
    if isinstance(fraction, int | float) and not 0 < fraction <= 1:
        raise ValueError(
            f"topk_fraction is {fraction}: it must be above 0 and at most 1"
        )
    if kind == "none":
        if error_feedback is not None:
            raise ValueError(
                "error_feedback is about what a compression leaves out: it goes with "
                f"the upload_compression {', '.join(KINDS[1:])}"
            )
        return None
    feedback = kind == "topk" if error_feedback is None else error_feedback
    share = 0.1 if fraction is None else fraction
    return Compression(kind=kind, fraction=share, error_feedback=feedback)


class Change(NamedTuple):
    """A change as the receiver has it."""

    numbers: PyTree  # float32: the parameters' tree
    scales: PyTree = ()  # float32 scalars of that structure; () if numbers are sent


def compress(
    kind: str, key: Key, change: PyTree, masks: Masks, fraction: ArrayLike
) -> Change:
    """Compresses a change.

    Args:
      kind: one of `KINDS`, but ``"none"``.
      key: randomness of the rounding.
      change: float32 tree, zero where the masks do not keep it.
      masks: bools of that structure.
      fraction: share of the kept entries that ``"topk"`` sends; may be traced.
    """
    if kind == "topk":
        return Change(top_k(change, masks, fraction))
    return stochastic(key, change, kind)


def top_k(change: PyTree, masks: Masks, fraction: ArrayLike) -> PyTree:
    """Keeps the entries of a change that are largest in absolute value.

    Of n entries that the masks keep, ``max(1, floor(fraction n))`` stay, over the whole
    model, and all others are zero. The product is rounded to float32. Ties go to the
    lowest index.

    Args:
      change: float32 tree.
      masks: bools of that structure.
      fraction: in (0, 1]; may be traced.

    Example:
      >>> kept = {"b": jnp.array([True]), "w": jnp.array([True, False, True])}
      >>> top_k({"b": jnp.array([-3.0]), "w": jnp.array([1.0, 9.0, 2.0])}, kept, 0.7)
      {'b': Array([-3.], dtype=float32), 'w': Array([0., 0., 2.], dtype=float32)}
    """
    leaves, structure = jax.tree.flatten(change)
    kept = jax.tree.leaves(masks)
    total = sum((jnp.sum(mask, dtype=jnp.int32) for mask in kept), start=jnp.int32(0))
    share = jnp.asarray(fraction, jnp.float32) * total.astype(jnp.float32)
    count = jnp.maximum(jnp.floor(share).astype(jnp.int32), 1)
    # Zeros are no candidates: sent or not, they change nothing, and are many ties.
    keys = [
        sort_keys(jnp.abs(leaf), mask & (leaf != 0))
        for leaf, mask in zip(leaves, kept, strict=True)
    ]
    chosen = largest([keys], count[jnp.newaxis])[0]
    cut = [
        jnp.where(flat.reshape(leaf.shape), leaf, 0.0)
        for flat, leaf in zip(chosen, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, cut)


def stochastic(key: Key, change: PyTree, kind: str) -> Change:
    """Rounds a change at random to multiples of a scale for each leaf, unbiased.

    With ``scale = max|x| / levels``, rounded up to 16 bits, x becomes one of the two
    neighbouring multiples, the nearer one the more likely, so that its expected value
    is x. Zeros stay zeros.

    Args:
      key: randomness.
      change: float32 tree.
      kind: ``"int8"`` with 127 levels to either side of zero, or ``"int4"`` with 7.

    Example:
      >>> change = stochastic(jax.random.key(0), {"w": jnp.array([7.0, 0, -2])}, "int4")
      >>> change.numbers["w"].tolist(), float(change.scales["w"])
      ([7.0, 0.0, -2.0], 1.0)
    """
    leaves, structure = jax.tree.flatten(change)
    keys = jax.random.split(key, len(leaves))
    pairs = [
        _rounded(leaf_key, leaf, LEVELS[kind])
        for leaf_key, leaf in zip(keys, leaves, strict=True)
    ]
    unflatten = functools.partial(jax.tree.unflatten, structure)
    return Change(
        unflatten([numbers for numbers, _ in pairs]),
        unflatten([scale for _, scale in pairs]),
    )


def _rounded(key: Key, x: jax.Array, levels: int) -> tuple[jax.Array, jax.Array]:
    scale = _scale(jnp.max(jnp.abs(x), initial=0.0), levels)
    steps = x / jnp.where(scale > 0, scale, 1.0)
    below = jnp.floor(steps)
    up = jax.random.uniform(key, x.shape) < steps - below
    codes = jnp.clip(below + up, -levels, levels)
    return codes * scale, scale


def _scale(most: jax.Array, levels: int) -> jax.Array:
    """Returns ``most / levels`` rounded up to a float32 with 16 significant bits."""
    bits = jax.lax.bitcast_convert_type(most / levels, jnp.uint32)
    rest = jnp.uint32((1 << _SCALE_BITS) - 1)
    short = jax.lax.bitcast_convert_type((bits + rest) & ~rest, jnp.float32)
    return jnp.where(most > 0, jnp.maximum(short, _SMALLEST), 0.0)
