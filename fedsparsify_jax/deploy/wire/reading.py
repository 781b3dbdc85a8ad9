"""Reading messages: the model that the receiver makes of one."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.deploy.wire import container, positions
from fedsparsify_jax.deploy.wire.header import Header, check_shape, digest, parsed
from fedsparsify_jax.deploy.wire.names import flat, nested
from fedsparsify_jax.deploy.wire.values import (
    DTYPE_OF,
    DTYPES,
    LEVELS,
    Narrow,
    joined,
    unpaired,
    widen,
)
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.types import Masks, Variables

LIMIT = 2**30
"""Bytes that a decoded message may have, unless `decode` is told another limit."""

_KEPT = {f"kept.{form}" for form in positions.FORMS}
_GROWN = {f"grown.{form}" for form in positions.FORMS}
_NONZERO = {f"nonzero.{form}" for form in positions.FORMS}
_NUMBERS = {"", "int4", *DTYPES}
_PARTS = {*_NUMBERS, "scale", *_KEPT, *_GROWN, *_NONZERO}
_SINCE_2 = {"int4", *_NONZERO}
# Positions that messages may have, by the header's `masks`.
_ALLOWED: dict[str, set[str]] = {
    "none": set(),
    "known": set(),
    "sent": _KEPT,
    "previous": _KEPT | _GROWN,
}
Arrays = Mapping[str, np.ndarray]


class Message(NamedTuple):
    """A decoded message."""

    variables: Variables  # NumPy arrays, zero where the masks do not keep them
    masks: Masks | None  # bool arrays; None if it came without
    metadata: dict[str, Any]  # the sender's


class _Leaf(NamedTuple):
    """One array of a message, its parts not yet read."""

    name: str  # as errors have it
    parts: Arrays  # by the part's name
    shape: tuple[int, ...]  # of the array
    before: np.ndarray | None  # bool [n]: the receiver's mask
    sent: str  # part that has the numbers
    values: str  # what they travel as: one of `VALUES`


def decode(
    message: bytes,
    *,
    known: Masks | None = None,
    previous: Masks | None = None,
    limit: int = LIMIT,
) -> Message:
    """Reads a message.

    Args:
      message: what `encode` wrote, or anything else that arrived.
      known: the masks that the sender was told to be known.
      previous: the masks that the sender codes changes against.
      limit: bytes that the model and its masks, and the message once decompressed, may
        have; checked before memory is taken for them.

    Returns:
      The variables, masks and metadata. What float32 arrays travelled in is float32
      again.

    Raises:
      InputError: if it is not a whole message of this version, too large, or coded for
        other masks than these.

    Example:
      >>> from fedsparsify_jax.deploy import wire
      >>> message = wire.encode({"w": np.zeros(2, np.float32)}, metadata={"round": 3})
      >>> decode(message)
      Message(variables={'w': array([0., 0.], dtype=float32)}, masks=None, \
metadata={'round': 3})
    """
    if known is not None and previous is not None:
        raise InputError("give known or previous masks, not both")
    arrays, record = container.unpack(bytes(message), limit)
    header = parsed(record)
    has = _receivers(header, known, previous)
    parts = _grouped(arrays)
    _check_names(parts, header, has)
    leaves = {name: _leaf(name, parts[name], header, has) for name in sorted(parts)}
    _check_size(leaves, limit)
    variables, masks = {}, {}
    for name, leaf in leaves.items():
        mask = None
        if header.masks != "none":
            mask = _mask(leaf)
            masks[name] = mask.reshape(leaf.shape)
        variables[name] = _spread(leaf, mask).reshape(leaf.shape)
    return Message(
        variables=nested(variables, header.empty),
        masks=None if header.masks == "none" else nested(masks, header.empty),
        metadata=header.metadata,
    )


def _receivers(
    header: Header, known: Masks | None, previous: Masks | None
) -> dict[str, np.ndarray] | None:
    """Returns the masks that a message builds on, if it does."""
    if header.masks not in ("known", "previous"):
        return None
    masks = known if header.masks == "known" else previous
    if masks is None:
        raise InputError(
            f"this message is for a receiver with masks: give them as {header.masks}"
        )
    has, _ = flat(masks, f"{header.masks} masks")
    if any(mask.dtype != bool for mask in has.values()):
        raise InputError(f"the {header.masks} masks are not bool throughout")
    if digest(has) != header.of:
        raise InputError(
            f"the {header.masks} masks are not those of the sender: its digest is "
            f"{shown(header.of)}, theirs {digest(has)!r}"
        )
    return has


def _grouped(arrays: Arrays) -> dict[str, dict[str, np.ndarray]]:
    """Returns the parts of every array by its path, all of them with a meaning."""
    groups: dict[str, dict[str, np.ndarray]] = {}
    for path, array in arrays.items():
        name, _, part = path.partition("#")
        if part not in _PARTS or path.endswith("#"):
            raise InputError(f"the message has an array {shown(path)} without meaning")
        groups.setdefault(name, {})[part] = array
    return groups


def _check_names(
    groups: Mapping[str, Arrays], header: Header, has: Arrays | None
) -> None:
    named = {*header.shapes, *header.exact} - groups.keys()
    missing = set() if has is None else has.keys() - groups.keys()
    for name in sorted(named | missing):
        raise InputError(f"the message lacks {shown(name)}")
    for name in sorted(groups.keys() - has.keys() if has is not None else ()):
        raise InputError(
            f"the message has {shown(name)}, which has no {header.masks} mask"
        )
    for name, parts in groups.items():
        keys = parts.keys()
        places = keys & (_KEPT | _GROWN)
        forms = (len(keys & kind) for kind in (_KEPT, _GROWN, _NONZERO))
        if len(keys & _NUMBERS) != 1 or max(forms) > 1:
            raise InputError(f"the parts of {shown(name)} make no array")
        if header.version < 2 and keys & _SINCE_2:
            raise InputError(f"{shown(name)} has parts that version 1 does not have")
        if not places <= _ALLOWED[header.masks]:
            raise InputError(
                f"the message has positions of {shown(name)}, its header says that "
                f"masks are {header.masks!r}"
            )


def _leaf(name: str, parts: Arrays, header: Header, has: Arrays | None) -> _Leaf:
    """Returns an array of the message, its shape and dtype understood."""
    (sent,) = parts.keys() & _NUMBERS
    if has is not None:
        shape = has[name].shape
    elif sent and name not in header.shapes:
        raise InputError(f"the message does not say the shape of {shown(name)}")
    else:
        shape = header.shapes.get(name, check_shape(parts[sent].shape, name))
    values = _values_of(name, parts[sent], sent, header)
    if ("scale" in parts) != (values in LEVELS):
        raise InputError(f"{shown(name)} has a scale too many, or none")
    return _Leaf(
        name=shown(name),
        parts=parts,
        shape=shape,
        before=None if has is None else has[name].reshape(-1),
        sent=sent,
        values=values,
    )


def _values_of(name: str, numbers: np.ndarray, sent: str, header: Header) -> str:
    """Returns what the numbers of an array travel as; float32 if they are as before."""
    if sent == "int4":
        if header.values != "int4":
            raise InputError(f"{shown(name)} is in int4, the header says otherwise")
        return "int4"
    if header.values not in DTYPE_OF or name in header.exact:
        return "float32"
    dtype = DTYPES[sent] if sent else numbers.dtype
    return header.values if dtype == DTYPE_OF[header.values] else "float32"


def _check_size(leaves: Mapping[str, _Leaf], limit: int) -> None:
    size = 0
    for leaf in leaves.values():
        dtype = DTYPES.get(leaf.sent, leaf.parts[leaf.sent].dtype)
        number = 4 if leaf.values != "float32" else dtype.itemsize
        size += math.prod(leaf.shape) * (number + 1)  # and a byte of the mask
    if size > limit:
        raise InputError(
            f"this message is a model and masks of {size:,} bytes, the limit is "
            f"{limit:,}"
        )


def _mask(leaf: _Leaf) -> np.ndarray:
    """Returns which of an array's numbers are kept: bool ``[n]``."""
    kept = _positions(leaf, _KEPT)
    grown = _positions(leaf, _GROWN)
    if leaf.before is None:
        size = math.prod(leaf.shape)
        if kept is None:
            return np.ones(size, bool)
        return positions.read(kept, size, leaf.name)
    mask = leaf.before.copy()
    if kept is not None:
        many = int(np.count_nonzero(leaf.before))
        mask[leaf.before] = positions.read(kept, many, leaf.name)
    if grown is not None:
        many = leaf.before.size - int(np.count_nonzero(leaf.before))
        mask[~leaf.before] = positions.read(grown, many, leaf.name)
    return mask


def _positions(leaf: _Leaf, names: set[str]) -> positions.Positions | None:
    for part in names & leaf.parts.keys():
        return positions.Positions(part.partition(".")[2], leaf.parts[part])
    return None


def _numbers(leaf: _Leaf, count: int) -> np.ndarray:
    """Returns the numbers of an array that were sent, in the dtype that they had."""
    numbers = leaf.parts[leaf.sent]
    if leaf.sent == "int4":
        numbers = unpaired(numbers, count, leaf.name)
    elif leaf.sent:
        numbers = joined(numbers, DTYPES[leaf.sent], leaf.name)
    if numbers.size != count:
        raise InputError(
            f"the message has {numbers.size:,} numbers of {leaf.name}, {count:,} are "
            "kept"
        )
    if leaf.values != "float32":
        levels = LEVELS.get(leaf.values, 1)
        return widen(Narrow(numbers, leaf.parts.get("scale")), leaf.name, levels)
    return numbers


def _spread(leaf: _Leaf, mask: np.ndarray | None) -> np.ndarray:
    """Returns an array's numbers ``[n]``: those that were sent, and zeros."""
    size = math.prod(leaf.shape)
    kept = size if mask is None else int(np.count_nonzero(mask))
    places = _positions(leaf, _NONZERO)
    if places is None:
        numbers = _numbers(leaf, kept)
    else:
        chosen = positions.read(places, kept, leaf.name)
        numbers = _numbers(leaf, int(np.count_nonzero(chosen)))
        numbers = _placed(numbers, chosen)
    return numbers if kept == size else _placed(numbers, mask)


def _placed(numbers: np.ndarray, places: np.ndarray | None) -> np.ndarray:
    assert places is not None
    spread = np.zeros(places.size, numbers.dtype)
    spread[places] = numbers.reshape(-1)
    return spread
