"""Writing messages: what of a model is sent."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from fedsparsify_jax.deploy.wire import container, positions
from fedsparsify_jax.deploy.wire.header import Header, digest, written
from fedsparsify_jax.deploy.wire.names import fitting, flat
from fedsparsify_jax.deploy.wire.values import (
    CODES,
    DTYPE_OF,
    DTYPES,
    LEVELS,
    VALUES,
    Narrow,
    Values,
    narrow,
    paired,
    planes,
)
from fedsparsify_jax.errors import InputError, shown, unknown
from fedsparsify_jax.types import Masks, Variables

Arrays = Mapping[str, np.ndarray]


def encode(
    variables: Variables,
    masks: Masks | None = None,
    *,
    values: Values = "float32",
    known: Masks | None = None,
    previous: Masks | None = None,
    nonzero: bool = False,
    scales: Mapping[str, Any] | None = None,
    compress: Literal["zstd"] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> bytes:
    """Writes a model as a message.

    Args:
      variables: nested dicts of arrays, NumPy's or JAX's.
      masks: what is kept of them, bools of the same shapes; None for a dense message.
      values: dtype in which float32 arrays travel: ``"float32"``, bit for bit,
        ``"float16"``, ``"bfloat16"``, or ``"int8"`` and ``"int4"`` with a scale for
        every array. Arrays of other dtypes always travel as they are.
      known: masks that the receiver has, exactly these: no positions are sent.
      previous: masks that the receiver has: what has changed since is sent.
      nonzero: whether kept numbers that are zero are left out, and positions of the
        others among the kept ones sent.
      scales: of ``"int8"`` and ``"int4"``: nested dicts of float32 scalars, for some of
        the arrays, whose numbers are whole multiples of them and travel exactly. All
        other arrays travel as they are.
      compress: ``"zstd"`` for a message in zstd (extra ``deploy``), its numbers as
        planes of bytes; lossless.
      metadata: whatever JSON can say, for the receiver.

    Returns:
      The message, see ``docs/formats.md``.

    Raises:
      InputError: if variables and masks do not fit one another, a weight that is not
        kept is not zero, or something cannot be sent.

    Example:
      >>> model = {"w": np.array([0.0, 0.0, 3.0], np.float32)}
      >>> encode(model, {"w": np.array([False, False, True])})[-5:]
      b'\\x00\\x00@@ '
    """
    _check_options(values, compress, masks, known, previous)
    leaves, empty = flat(variables, "variables")
    given = _scales(scales, values, leaves)
    _check_dtypes(leaves)
    receiver = known if previous is None else previous
    has = None if receiver is None else fitting(receiver, leaves)
    kept = has if masks is None else fitting(masks, leaves)
    if known is not None and masks is not None:
        _check_same(kept, has)

    arrays: dict[str, np.ndarray] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for name, leaf in leaves.items():
        mask = None if kept is None else kept[name].reshape(-1)
        numbers = _kept_numbers(leaf, mask, name)
        places: dict[str, np.ndarray] = {}
        if nonzero:
            numbers, places = _nonzero(numbers)
        narrows = values if given is None or name in given else "float32"
        scale = (given or {}).get(name)
        parts = _parts(numbers, narrows, name, scale, in_planes=compress is not None)
        parts |= places
        if has is None and "" in parts and numbers.size == leaf.size:
            parts[""] = parts[""].reshape(leaf.shape)
        elif has is None:
            shapes[name] = leaf.shape
        if mask is not None and known is None:
            parts |= _changes(mask, None if has is None else has[name].reshape(-1))
        arrays |= {f"{name}#{part}" if part else name: a for part, a in parts.items()}
    newer = values == "int4" or any("#nonzero." in name for name in arrays)
    header = Header(
        version=2 if newer else 1,
        masks=_kind(masks, known, previous),
        of="" if has is None else digest(has),
        values=values,
        exact=_exact(leaves, values),
        shapes=shapes,
        empty=empty,
        metadata=dict(metadata or {}),
    )
    return container.pack(arrays, written(header), compress)


def _check_options(
    values: str,
    compress: str | None,
    masks: Masks | None,
    known: Masks | None,
    previous: Masks | None,
) -> None:
    if values not in VALUES:
        raise unknown("values", str(values), VALUES)
    if compress not in (None, "zstd"):
        raise unknown("compress", str(compress), ["zstd"])
    if known is not None and previous is not None:
        raise InputError("give known or previous masks, not both")
    if masks is None and previous is not None:
        raise InputError("give the masks whose changes since the previous are sent")


def _kind(masks: Masks | None, known: Masks | None, previous: Masks | None) -> str:
    if known is not None:
        return "known"
    if previous is not None:
        return "previous"
    return "none" if masks is None else "sent"


def _check_dtypes(leaves: Arrays) -> None:
    for name, leaf in leaves.items():
        if leaf.dtype.newbyteorder("<") not in CODES:
            raise InputError(
                f"{shown(name)} is of {leaf.dtype}: messages have {', '.join(DTYPES)}"
            )


def _check_same(masks: Arrays | None, known: Arrays | None) -> None:
    for name in masks or {}:
        if not np.array_equal((masks or {})[name], (known or {})[name]):
            raise InputError(
                f"the masks of {shown(name)} are not the known ones: give those of the "
                "receiver as previous"
            )


def _exact(leaves: Arrays, values: str) -> tuple[str, ...]:
    """Returns the arrays that have the dtype ``values`` without being narrowed."""
    if values in ("float32", "int4"):  # the container has no dtype of int4
        return ()
    return tuple(n for n, leaf in leaves.items() if leaf.dtype == DTYPE_OF[values])


def _kept_numbers(leaf: np.ndarray, mask: np.ndarray | None, name: str) -> np.ndarray:
    """Returns the numbers ``[k]`` of an array that its mask keeps, in row order."""
    numbers = np.ascontiguousarray(leaf, leaf.dtype.newbyteorder("<")).reshape(-1)
    if mask is None or mask.all():
        return numbers
    kept = numbers[mask]
    if np.count_nonzero(numbers) != np.count_nonzero(kept):
        raise InputError(
            f"{shown(name)} is not zero where its mask drops it: apply the masks "
            "before sending"
        )
    return kept


def _scales(
    scales: Mapping[str, Any] | None, values: str, leaves: Arrays
) -> Arrays | None:
    """Returns the scales of float32 arrays by path."""
    if scales is None:
        return None
    if values not in LEVELS:
        raise InputError(f"scales go with values {', '.join(LEVELS)}, not {values}")
    given, _ = flat(scales, "scales")
    for name, scale in given.items():
        if name not in leaves or leaves[name].dtype != np.float32:
            raise InputError(f"scales have {shown(name)}, which is no float32 array")
        fits = scale.size == 1 and scale.dtype == np.float32
        most = float(np.finfo(np.float32).max)
        if not fits or not 0 <= float(scale.reshape(())) * LEVELS[values] <= most:
            raise InputError(f"the scale of {shown(name)} is {shown(scale)}")
    return given


def _nonzero(numbers: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Returns the numbers ``[k]`` of ``[n]`` that have a bit, and where they are."""
    pieces = numbers.view(np.uint8).reshape(len(numbers), numbers.dtype.itemsize)
    chosen = np.asarray(pieces.any(axis=1))
    if chosen.all():
        return numbers, {}
    form, code = positions.write(chosen)
    return numbers[chosen], {f"nonzero.{form}": code}


def _parts(
    numbers: np.ndarray,
    values: str,
    name: str,
    scale: np.ndarray | None,
    *,
    in_planes: bool,
) -> dict[str, np.ndarray]:
    """Returns the parts of the message that hold numbers ``[k]``."""
    sent = Narrow(numbers, None)
    if numbers.dtype == np.float32:
        sent = narrow(numbers, values, shown(name), scale)
    parts = {} if sent.scale is None else {"scale": sent.scale}
    if parts and values == "int4":
        return {"int4": paired(sent.numbers), **parts}
    dtype = sent.numbers.dtype
    if in_planes and dtype.itemsize > 1:
        return {CODES[dtype]: planes(sent.numbers), **parts}
    return {"": sent.numbers, **parts}


def _changes(mask: np.ndarray, before: np.ndarray | None) -> dict[str, np.ndarray]:
    """Returns the parts that say what is kept, of ``[n]`` numbers."""
    still = mask if before is None else mask[before]
    parts = {}
    if not still.all():
        form, code = positions.write(still)
        parts[f"kept.{form}"] = code
    # Seldom does anything grow, and to look costs less than to gather.
    if before is not None and (mask & ~before).any():
        form, code = positions.write(mask[~before])
        parts[f"grown.{form}"] = code
    return parts
