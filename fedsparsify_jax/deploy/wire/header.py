"""The header of a message: its version, and what the receiver must have."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.deploy.wire.values import VALUES
from fedsparsify_jax.errors import InputError, shown

VERSION = 2
"""Of the format: the latest. Messages that need nothing of it are of version 1."""
VERSIONS = (1, 2)
"""Those that are read."""
_SINCE_2 = ("int4",)  # values
MASKS = ("none", "sent", "known", "previous")
"""Ways in which masks come: not at all, whole, not again, or as changes."""
_MOST_AXES = 32


class Header(NamedTuple):
    """All that a message says beside its arrays."""

    version: int
    masks: str  # one of MASKS
    of: str  # digest of the masks that the receiver has; "" if it needs none
    values: str  # one of VALUES
    exact: tuple[str, ...]  # arrays that had this dtype before, and go back to none
    shapes: Mapping[str, tuple[int, ...]]  # of arrays that are sent in another one
    empty: tuple[str, ...]  # branches without arrays
    metadata: dict[str, Any]  # the sender's own


def written(header: Header) -> dict[str, Any]:
    """Returns a header as JSON; entries that say nothing are left out."""
    entries = header._asdict()
    defaults = {"of": "", "values": "float32"}
    return {"version": entries.pop("version")} | {
        name: entry
        for name, entry in entries.items()
        if entry != defaults.get(name) and len(entry)
    }


def parsed(record: dict[str, Any]) -> Header:
    """Returns the header that a message has.

    Raises:
      InputError: if it is of another version, or not of this form.
    """
    version = record.get("version")
    if type(version) is not int or version not in VERSIONS:
        raise InputError(
            f"this message has the format version {shown(version)}, this library reads "
            f"versions {VERSIONS[0]} to {VERSIONS[-1]}: update the older of the two"
        )
    unknown = set(record) - {*Header._fields}
    if unknown:
        raise InputError(f"the message's header has an unknown {shown(min(unknown))}")
    header = Header(
        version=version,
        masks=_text(record, "masks", "none"),
        of=_text(record, "of", ""),
        values=_text(record, "values", "float32"),
        exact=_texts(record, "exact"),
        shapes=_shapes(record.get("shapes", {})),
        empty=_texts(record, "empty"),
        metadata=record.get("metadata", {}),
    )
    newer = version < 2 and header.values in _SINCE_2
    if header.masks not in MASKS or header.values not in VALUES or newer:
        raise InputError(
            f"the message's header has masks {shown(header.masks)} and values "
            f"{shown(header.values)}, one of which is unknown"
        )
    if not isinstance(header.metadata, dict):
        raise InputError("the message's metadata are no record")
    return header


def _text(record: dict[str, Any], name: str, default: str) -> str:
    text = record.get(name, default)
    if not isinstance(text, str):
        raise InputError(f"the message's header has {shown(text)} as {name}")
    return text


def _texts(record: dict[str, Any], name: str) -> tuple[str, ...]:
    texts = record.get(name, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InputError(f"the message's header has {shown(texts)} as {name}")
    return tuple(texts)


def _shapes(shapes: Any) -> dict[str, tuple[int, ...]]:
    if not isinstance(shapes, dict):
        raise InputError(f"the message's header has {shown(shapes)} as shapes")
    for name, shape in shapes.items():
        if not isinstance(shape, list) or not all(type(n) is int for n in shape):
            raise InputError(f"{shown(name)} has the shape {shown(shape)}")
    return {name: check_shape(tuple(shape), name) for name, shape in shapes.items()}


def check_shape(shape: tuple[int, ...], name: str) -> tuple[int, ...]:
    """Returns a shape that NumPy can have, in any dtype.

    Raises:
      InputError: if it cannot.
    """
    # The axes of length 0 aside, because NumPy multiplies the others all the same.
    largest = math.prod(length or 1 for length in shape)
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0 or largest >= 2**48:
        raise InputError(f"{shown(name)} has the shape {shown(list(shape))}")
    return shape


def digest(masks: Mapping[str, np.ndarray]) -> str:
    """Returns 16 hexadecimal digits that tell masks apart.

    The first ones of the SHA-256 of, array after array in the order of their names: a
    line with the name and the shape as a JSON list, and the packed bits.

    Args:
      masks: path of an array to its bools.

    >>> digest({"params/w": np.array([True, False])})
    'dd730c10b83886e9'
    """
    sha = hashlib.sha256()
    for name in sorted(masks):
        mask = masks[name]
        sha.update(json.dumps([name, list(mask.shape)]).encode() + b"\n")
        sha.update(np.packbits(mask).tobytes())
    return sha.hexdigest()[:16]
