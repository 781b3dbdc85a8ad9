"""The messages of a round as parts of bytes: models to clients, and their uploads.

A simulation that measures its bytes and a federation over a network write them here.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from fedsparsify_jax.compressors import Change
from fedsparsify_jax.deploy import wire
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import (
    Masks,
    PyTree,
    UploadCompression,
    Variables,
    WireValues,
)

Parts = dict[str, bytes]
MODEL, MASKS, CHANGE = "model", "masks", "change"
"""Parts of a message: a model under its masks; masks that the model is not within; a
model whose parameters are a change, and all else as it is."""


class Exchange(NamedTuple):
    """The form of the messages of a federation."""

    values: WireValues = "float32"
    compress: Literal["zstd"] | None = None
    uploads: UploadCompression = "none"


class Sent(NamedTuple):
    """A model as it has arrived."""

    variables: Variables
    masks: Masks
    is_change: bool  # of the parameters, to be added to those that were sent out


def write_model(
    exchange: Exchange, variables: Variables, masks: Masks, previous: Masks | None
) -> Parts:
    """Writes a model, its masks coded against those that the receiver has.

    Args:
      exchange: the form of messages.
      variables: host arrays.
      masks: of the same structure.
      previous: masks that the receiver has; None if it has none.
    """
    values, compress = exchange.values, exchange.compress
    if within(variables, masks):
        model = wire.encode(
            variables, masks, previous=previous, values=values, compress=compress
        )
        return {MODEL: model}
    # Some methods train what their masks drop, and use the masks elsewhere.
    return {
        MODEL: wire.encode(variables, values=values, compress=compress),
        MASKS: wire.encode(jax.tree.map(np.packbits, masks), compress=compress),
    }


def write_upload(
    exchange: Exchange,
    variables: Variables,
    masks: Masks,
    change: Change | tuple[()],
    previous: Masks,
) -> Parts:
    """Writes an upload; that of broken numbers is the model as it is.

    Args:
      exchange: the form of messages.
      variables: of the upload, host arrays.
      masks: of the upload.
      change: that is sent in place of parameters; () if none is.
      previous: masks of the model that the upload answers.
    """
    if isinstance(change, tuple) and not change:
        return write_model(exchange, variables, masks, previous)
    if not is_finite(variables):
        return write_model(exchange, variables, masks, previous)
    message = encode_change(
        exchange.uploads,
        variables,
        change,
        masks,
        values=exchange.values,
        previous=previous,
        compress=exchange.compress,
    )
    return {CHANGE: message}


def read_model(
    parts: Mapping[str, bytes],
    like: Masks | None,
    previous: Masks | None,
    limit: int = wire.LIMIT,
) -> Sent:
    """Reads what `write_model` or `write_upload` wrote.

    Args:
      parts: of the message; others than those of a model are left alone.
      like: masks of the model, for their shapes; None to take them from the message.
      previous: masks that the sender codes changes against; None if there are none.
      limit: see `wire.decode`.

    Raises:
      InputError: if the parts are no model of this structure.
    """
    is_change = CHANGE in parts
    if is_change == (MODEL in parts):
        raise InputError("the message must have a model or a change, and one of them")
    message = wire.decode(
        parts[CHANGE if is_change else MODEL],
        previous=previous if MASKS not in parts else None,
        limit=limit,
    )
    masks = message.masks
    if like is None:
        like = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), message.variables)
    if MASKS in parts:
        packed = wire.decode(parts[MASKS], limit=limit).variables
        check_structure(packed, jax.tree.map(packed_like, like), "masks")
        masks = unpacked(packed, like)
    if masks is None:
        masks = jax.tree.map(lambda leaf: np.ones(leaf.shape, bool), like)
    check_structure(masks, like, "masks")
    return Sent(variables=message.variables, masks=masks, is_change=is_change)


def check_structure(tree: Any, like: Any, what: str) -> None:
    """Refuses arrays of other names, shapes or dtypes.

    Raises:
      InputError: saying of what.

    >>> check_structure({"w": np.zeros(2)}, {"w": np.zeros(3)}, "the model")
    Traceback (most recent call last):
    ...
    fedsparsify_jax.errors.InputError: the model has other arrays than this federation's
    """

    def kinds(tree: Any) -> list[tuple[Any, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return [(path, leaf.shape, np.dtype(leaf.dtype)) for path, leaf in leaves]

    if kinds(tree) != kinds(like):
        raise InputError(f"{what} has other arrays than this federation's")


def within(variables: Variables, masks: Masks) -> bool:
    """Returns whether all that the masks drop is zero.

    >>> within({"w": np.array([0.0, 1.0])}, {"w": np.array([False, True])})
    True
    """
    outside = jax.tree.map(lambda v, m: bool(np.any(v[~m])), variables, masks)
    return not any(jax.tree.leaves(outside))


def encode_change(
    compression: UploadCompression,
    variables: Variables,
    change: Change,
    masks: Masks,
    *,
    values: WireValues = "float32",
    **options: Any,
) -> bytes:
    """Writes a compressed upload: the change of its parameters, and all else as it is.

    Args:
      compression: what the change has gone through.
      variables: of the upload; its parameters are not sent.
      change: that the server adds to the model that it sent out, under the masks.
      masks: of the upload.
      values: dtype in which the numbers of ``"topk"`` travel.
      **options: of `wire.encode`.
    """
    sent = variables | {"params": change.numbers}
    if compression == "topk":
        return wire.encode(sent, masks, values=values, nonzero=True, **options)
    assert compression in ("int8", "int4")
    scales = {"params": change.scales}
    return wire.encode(sent, masks, values=compression, scales=scales, **options)


def packed_like(mask: Any) -> np.ndarray:
    """Returns an array of the shape that a mask has as packed bits.

    >>> packed_like(np.zeros((3, 3), bool)).shape
    (2,)
    """
    return np.empty(-(-int(np.prod(mask.shape)) // 8), np.uint8)


def is_finite(tree: PyTree) -> bool:
    """Returns whether every number of host arrays is finite.

    >>> is_finite({"w": np.array([0.0, np.inf])}), is_finite(())
    (False, True)
    """
    floats = (np.asarray(leaf) for leaf in jax.tree.leaves(tree))
    return all(bool(np.isfinite(f).all()) for f in floats if f.dtype.kind not in "biu")


def unpacked(packed: Any, like: Masks) -> Masks:
    """Returns masks of their packed bits.

    >>> unpacked({"w": np.array([128], np.uint8)}, {"w": np.zeros(2, bool)})
    {'w': array([ True, False])}
    """

    def bits(packed: np.ndarray, like: Any) -> np.ndarray:
        count = int(np.prod(like.shape))
        return np.unpackbits(packed, count=count).astype(bool).reshape(like.shape)

    masks: Masks = jax.tree.map(bits, packed, like)
    return masks
