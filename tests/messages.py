"""Models of every kind with masks, for tests of messages, and accidents to messages."""

import json
import random
from typing import Any, NamedTuple

import damaged
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from hypothesis.extra import numpy as npst

from fedsparsify_jax.deploy import wire
from fedsparsify_jax.errors import InputError

DTYPES = [
    *map(np.dtype, ("f8", "f4", "f2", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8")),
    np.dtype(bool),
    np.dtype(jnp.bfloat16),
]
_NAMES = st.text(min_size=1, max_size=6).filter(
    lambda text: not set(text) & set("/#") and text.isprintable()
)


class Model(NamedTuple):
    """Variables and masks of one structure, and the masks of an earlier round."""

    variables: dict[str, Any]
    masks: dict[str, Any]
    previous: dict[str, Any]


@st.composite
def bits(draw: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Bools of any density, from nothing to everything."""
    density = draw(st.sampled_from((0.0, 0.001, 0.05, 0.5, 0.95, 1.0)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return rng.random(shape) < density


@st.composite
def leaves(draw: Any, dtypes: list[np.dtype] = DTYPES) -> Model:
    """One array of any bits, zero where its mask drops it, and two masks."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=40))
    mask = draw(bits(shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = int(np.prod(shape))
    if dtype == np.dtype(bool):
        numbers = rng.random(size) < 0.5
    else:
        numbers = np.frombuffer(rng.bytes(size * dtype.itemsize), dtype)
        if draw(st.booleans()):
            numbers = rng.normal(size=size).astype(dtype)
    numbers = np.where(mask, numbers.reshape(shape), np.zeros((), dtype))
    return Model(numbers.astype(dtype), mask, draw(bits(shape)))


@st.composite
def models(draw: Any, dtypes: list[np.dtype] = DTYPES) -> Model:
    """Nested dicts of such arrays; some dicts are empty."""
    tree = draw(
        st.recursive(
            leaves(dtypes),
            lambda inner: st.dictionaries(_NAMES, inner, max_size=3),
            max_leaves=6,
        )
    )
    if isinstance(tree, Model):
        tree = {"only": tree}
    return Model(*(_field(tree, field) for field in range(3)))


def _field(tree: Any, field: int) -> Any:
    if isinstance(tree, Model):
        return tree[field]
    return {name: _field(branch, field) for name, branch in tree.items()}


def same_bits(one: Any, other: Any) -> bool:
    """Whether two trees have the same structure, shapes, dtypes and bits."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(
            same_bits(one[name], other[name]) for name in one
        )
    one, other = np.asarray(one), np.asarray(other)
    same = one.dtype == other.dtype and one.shape == other.shape
    return same and one.tobytes() == other.tobytes()


def finite(model: Model) -> bool:
    """Whether float32 arrays have neither NaN nor infinity, as int8 needs it."""
    trees = [model.variables]
    for tree in trees:
        trees += [branch for branch in tree.values() if isinstance(branch, dict)]
    arrays = [a for tree in trees for a in tree.values() if not isinstance(a, dict)]
    return all(np.isfinite(a).all() for a in arrays if a.dtype == np.float32)


def edited(rng: random.Random, message: bytes) -> bytes:
    """The message with an accident to its header, where it has one to be read."""
    length = int.from_bytes(message[:8], "little")
    try:
        container = json.loads(message[8 : 8 + length])
        ours = json.loads(container["__metadata__"]["fedsparsify"])
    except (ValueError, KeyError, UnicodeDecodeError):
        return damaged.damage(rng, message)
    if rng.random() < 0.5:
        _edit(rng, container)
        if rng.random() < 0.3:
            return _written(container, message[8 + length :])
    else:
        _edit(rng, ours)
        container["__metadata__"]["fedsparsify"] = json.dumps(ours)
    return _written(container, message[8 + length :])


def _written(container: Any, contents: bytes) -> bytes:
    text = json.dumps(container).encode()
    return len(text).to_bytes(8, "little") + text + contents


_ODD = (
    *(0, 1, 2, -1, 2**31, 2**40, 2**62, 2**63, 2**64, 10**30, 0.5, True, None, "", "x"),
    *([], {}, [0], [-1], [2**40], [2**32, 2**32], [2**62, 0], [1] * 40, ["a"], "int8"),
    *(
        "float16",
        "none",
        "sent",
        "known",
        "previous",
        "int4",
        "U16",
        "F16",
        "BOOL",
        "F64",
    ),
)


def _edit(rng: random.Random, record: Any) -> None:
    """Changes, renames, removes or adds one entry, at any depth."""
    places = [record]
    for place in places:
        inner = place.values() if isinstance(place, dict) else place
        places += [each for each in inner if isinstance(each, dict | list)]
    place = rng.choice(places)
    keys = list(place) if isinstance(place, dict) else list(range(len(place)))
    odd = rng.choice(_ODD)
    if not keys:
        place.append(odd) if isinstance(place, list) else place.update(x=odd)
        return
    key = rng.choice(keys)
    match rng.randrange(4):
        case 0 | 1:
            place[key] = odd
        case 2:
            del place[key]
        case 3 if isinstance(place, dict):
            new = rng.choice(
                (f"{key}#kept.ones", f"{key}#int4", f"{key}/x", "w", "#", str(key)[:-1])
            )
            place[new] = place.pop(key)
        case 3:
            place.append(odd)


def _example() -> Model:
    rng = np.random.default_rng(0)
    masks = {
        "params": {"w": rng.random((40, 30)) < 0.05, "b": np.arange(30) % 7 > 0},
        "batch_stats": {"mean": np.ones(30, bool), "steps": np.ones((), bool)},
    }
    numbers = rng.normal(size=(40, 30)).astype(np.float32)
    variables = {
        "params": {
            "w": np.where(masks["params"]["w"], numbers, np.float32(0)),
            "b": np.where(masks["params"]["b"], numbers[0], np.float32(0)),
        },
        "batch_stats": {"mean": numbers[1].astype(np.float64), "steps": np.int32(7)},
    }
    previous = {
        "params": {"w": rng.random((40, 30)) < 0.08, "b": np.ones(30, bool)},
        "batch_stats": masks["batch_stats"],
    }
    return Model(variables, masks, previous)


EXAMPLE = _example()
_HALF = jax.tree.map(lambda a: np.where(a > 0, a, np.zeros_like(a)), EXAMPLE.variables)


def examples() -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Valid messages of every kind, with what their receiver gives to `decode`."""
    variables, masks, previous = EXAMPLE
    kinds: dict[str, dict[str, Any]] = {
        "dense": {},
        "sent": {"masks": masks},
        "known": {"masks": masks, "known": masks},
        "previous": {"masks": masks, "previous": previous},
    }
    messages = {}
    for kind, options in kinds.items():
        receiver = {k: v for k, v in options.items() if k != "masks"}
        for values in wire.VALUES:
            for compress in (None, "zstd"):
                message = wire.encode(
                    variables,
                    **options,
                    values=values,
                    compress=compress,
                    metadata={"round": 3},
                )
                name = f"{kind}, {values}" + (f", {compress}" if compress else "")
                messages[name] = (message, receiver)
        message = wire.encode(_HALF, **options, values="int4", nonzero=True)
        messages[f"{kind}, int4, non-zeros"] = (message, receiver)
    return messages


def outcome(message: bytes, receiver: dict[str, Any], limit: int = 2**20) -> str:
    """``refused`` in one line, or ``accepted`` as a model that can be.

    Raises:
      AssertionError: for a refusal that says less, or a model that cannot be.
      Exception: whatever the decoder lets through.
    """
    try:
        decoded = wire.decode(message, **receiver, limit=limit)
    except InputError as error:
        assert str(error).isprintable() and len(str(error)) < 500, str(error)[:600]
        return "refused"
    check(decoded.variables, decoded.masks)
    return "accepted"


def check(variables: Any, masks: Any) -> None:
    """Asserts that masks fit variables, which are zero where these drop them."""
    for name, branch in variables.items():
        if isinstance(branch, dict):
            check(branch, None if masks is None else masks[name])
        elif masks is not None:
            assert masks[name].dtype == bool and masks[name].shape == branch.shape
            assert not branch[~masks[name]].any()
