"""Whatever arrives: a model that can be, or one clear line; never more memory."""

import json
import random
import tracemalloc

import damaged
import messages
import numpy as np
import pytest
import zstandard
from safetensors.numpy import save

from fedsparsify_jax.deploy import wire
from fedsparsify_jax.errors import InputError

EXAMPLES = messages.examples()
VARIABLES, MASKS, PREVIOUS = messages.EXAMPLE


@pytest.mark.parametrize("name", EXAMPLES)
def test_damaged_messages_are_refused_or_harmless(name):
    message, receiver = EXAMPLES[name]
    rng = random.Random(name)
    outcomes = [
        messages.outcome(spoil(rng, message), receiver)
        for _ in range(150)
        for spoil in (damaged.damage, messages.edited)
    ]
    assert outcomes.count("refused") > 150


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_truncation_is_refused(name):
    message, receiver = EXAMPLES[name]
    for length in range(0, len(message), 7):
        assert messages.outcome(message[:length], receiver) == "refused"


def container(header=None, **arrays):
    """A container with any header and arrays, ``__`` standing for ``#``."""
    header = {"version": 1, "masks": "sent"} | (header or {})
    named = {name.replace("__", "#"): array for name, array in arrays.items()}
    return save(named, {"fedsparsify": json.dumps(header)})


ONE = np.ones(1, np.float32)
BYTE = np.zeros(1, np.uint8)
INT4 = {"version": 2, "values": "int4", "shapes": {"w": [1]}}
BOTH = ("bitmap", "ones")


def of(*numbers, dtype=np.uint8):
    return np.array(numbers, dtype)


@pytest.mark.parametrize(
    "message, line",
    [
        (b"", "no whole message"),
        (b"\xff" * 100, "no whole message"),
        (save({"w": ONE}), "no whole message.*__metadata__"),
        (save({"w": ONE}, {"other": "{}"}), "no whole message.*fedsparsify"),
        (save({"w": ONE}, {"fedsparsify": "[" * 10**5}), "no whole message"),
        (save({"w": ONE}, {"fedsparsify": "[]"}), "its header is no record"),
        (container({"masks": "all"}, w=ONE), "masks 'all'"),
        (container({"values": "int4"}, w=ONE), "values 'int4'"),
        (container({"version": 2, "values": "int2"}, w=ONE), "values 'int2'"),
        (container(w__int4=BYTE), "'w' has parts that version 1 does not have"),
        (container(w=ONE, **{"w__nonzero.ones": BYTE}), "parts that version 1 does"),
        (container(INT4 | {"values": "int8"}, w__int4=BYTE), "'w' is in int4, the he"),
        (container(INT4, w__int4=BYTE), "scale too many, or none"),
        (container(INT4, w__int4=BYTE, w__scale=np.float32([np.nan])), "scale of 'w'"),
        (container(INT4, w__int4=BYTE, w=ONE), "'w' make no array"),
        (container(INT4, w__int4=of(0, 0), w__scale=ONE), "no 1 numbers of four bits"),
        (container(INT4, w__int4=BYTE.view(np.int8), w__scale=ONE), "no 1 numbers of"),
        (container(INT4, w__int4=of(1), w__scale=ONE), "four bits without a meaning"),
        (container(INT4, w__int4=of(128), w__scale=ONE), "bits without a meaning"),
        (
            container(INT4 | {"shapes": {}}, w__int4=BYTE, w__scale=ONE),
            "does not say the shape of 'w'",
        ),
        (
            container({"version": 2}, w=ONE, **{"w__nonzero.bitmap": BYTE}),
            "1 numbers of 'w', 0 are kept",
        ),
        (
            container({"version": 2}, w=ONE, **{"w__nonzero.ones": of(1)}),
            "reach 1, it has 1 numbers",
        ),
        (
            container({"version": 2}, w=ONE, **{f"w__nonzero.{f}": BYTE for f in BOTH}),
            "'w' make no array",
        ),
        (container({"extra": 1}, w=ONE), "unknown 'extra'"),
        (container({"exact": ["b"]}, w=ONE), "lacks 'b'"),
        (container({"shapes": {"b": [1]}}, w=ONE), "lacks 'b'"),
        (container({"shapes": {"w": [-1]}}, w=ONE), r"shape \[-1\]"),
        (container({"shapes": {"w": [1.0]}}, w=ONE), r"shape \[1.0\]"),
        (container({"shapes": {"w": [2**62, 0]}}, w=ONE), "shape"),
        (container({"shapes": {"w": [1] * 33}}, w=ONE), "shape"),
        (container({"shapes": {"w": [2**40]}}, w=ONE), r"5,497,558,138,880 bytes, the"),
        (container({"metadata": 3}, w=ONE), "metadata are no record"),
        (container(w__scale=ONE), "'w' make no array"),
        (container(w=ONE, w__F32=BYTE), "'w' make no array"),
        (container(w=ONE, w__kept=BYTE), "'w#kept' without meaning"),
        (container(w=ONE, w__scale=ONE), "scale"),
        (container({"values": "int8"}, w=of(1, dtype=np.int8)), "scale"),
        (
            container(
                {"values": "int8"}, w=of(1, dtype=np.int8), w__scale=np.float32([-1])
            ),
            "the scale of 'w' is -1",
        ),
        (container(w__F32=BYTE), "does not say the shape"),
        (container({"shapes": {"w": [1]}}, w__F32=BYTE), "no planes"),
        (container({"shapes": {"w": [2]}}, w=ONE), "1 numbers of 'w', 2 are kept"),
        (
            container({"masks": "none"}, w=ONE, **{"w__kept.bitmap": BYTE}),
            "positions of 'w', its header says",
        ),
        (container(w=ONE, **{"w__grown.bitmap": BYTE}), "positions of 'w'"),
        (
            container(w=ONE, **{"w__kept.bitmap": BYTE, "w__kept.ones": BYTE}),
            "'w' make no array",
        ),
        (container(w=ONE, **{"w__kept.bitmap": of(64)}), "ones after its 1 bits"),
        (container(w=ONE, **{"w__kept.bitmap": of(128, 0)}), "2 bytes, 1 bits need 1"),
        (
            container(w=ONE, **{"w__kept.bitmap": of(128, dtype=np.uint16)}),
            "dtype of no form",
        ),
        (container(w=ONE, **{"w__kept.ones": of(1)}), "reach 1, it has 1 numbers"),
        (container(w=ONE, **{"w__kept.ones": of(0, 255)}), "end inside a gap"),
        (container(w=ONE, **{"w__kept.ones": of(255)}), "end inside a gap"),
        (
            container(
                {"shapes": {"w": [9]}},
                w=ONE,
                **{"w__kept.ones": np.full(10**5, 65534, np.uint16)},
            ),
            "reach 6,553,499,999, it has 9 numbers",
        ),
        (container(**{"a/b": ONE, "a": ONE}), "inside of an array"),
        (container(**{"/".join("a" * 100): ONE}), "array called"),
        (container(**{"a//b": ONE}), "array called"),
        (container({"empty": ["w"]}, w=ONE), "where it says there is none"),
    ],
)
def test_each_fault_has_its_line(message, line):
    with pytest.raises(InputError, match=line):
        wire.decode(message)


def test_bools_are_zero_or_one():
    message = bytearray(wire.encode({"w": np.ones(1, bool)}))
    message[-1] = 2
    with pytest.raises(InputError, match="'w' has bools that are neither 0 nor 1"):
        wire.decode(bytes(message))


def test_a_receiver_with_other_masks_is_told():
    message = wire.encode(VARIABLES, MASKS, previous=PREVIOUS)
    with pytest.raises(InputError, match="previous masks are not those of the sender"):
        wire.decode(message, previous=MASKS)
    with pytest.raises(InputError, match="give them as previous"):
        wire.decode(message)
    with pytest.raises(InputError, match="give them as previous"):
        wire.decode(message, known=PREVIOUS)
    with pytest.raises(InputError, match="not both"):
        wire.decode(message, known=MASKS, previous=MASKS)


def test_decompression_is_limited_before_it_begins():
    zeros = zstandard.ZstdCompressor().compress(bytes(2**28))
    assert len(zeros) < 2**16
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="268,435,456 bytes once decompressed"):
            wire.decode(zeros, limit=2**20)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
    writer = zstandard.ZstdCompressor().compressobj()  # which does not know the size
    unsized = writer.compress(bytes(2**20)) + writer.flush()
    with pytest.raises(InputError, match="does not say its size"):
        wire.decode(unsized)
    whole = wire.encode(VARIABLES, compress="zstd")
    for more in (b"x", whole):
        with pytest.raises(InputError, match="no whole message in zstd"):
            wire.decode(whole + more)


def test_memory_is_not_taken_for_promises():
    """A message of 200 bytes that says to be 4 TB of zeros."""
    message = container(
        {"shapes": {"w": [2**40]}}, w=ONE[:0], **{"w__kept.ones": BYTE[:0]}
    )
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="the limit is 1,073,741,824"):
            wire.decode(message)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "given, line",
    [
        ({"variables": [1]}, "variables must be a dict"),
        ({"variables": {"a/b": ONE}}, "an entry called 'a/b'"),
        ({"variables": {"": ONE}}, "an entry called ''"),
        ({"variables": {3: ONE}}, "an entry called 3"),
        ({"variables": {"__metadata__": ONE}}, "an entry called"),
        ({"variables": {"\ud800": ONE}}, "cannot be written"),
        ({"variables": {"w": np.array(["x"])}}, "'w' is of <U1: messages have F64"),
        ({"variables": {"w": 1j * ONE}}, "'w' is of complex"),
        ({"variables": {"w": [[1], [1, 2]]}}, "where an array should be"),
        ({"masks": {"w": np.ones(3, bool)}}, "only one has"),
        ({"masks": {"v": ONE > 0}}, r"mask of 'v' is bool \(1,\): it must be bool"),
        ({"masks": {"v": np.ones(2)}}, "mask of 'v' is float64"),
        ({"masks": {"v": np.array([True, False])}}, "'v' is not zero where its mask"),
        ({"values": "float8"}, "unknown values 'float8'"),
        ({"compress": "gzip"}, "unknown compress 'gzip'"),
        ({"scales": {"v": ONE}}, "scales go with values int8, int4, not float32"),
        ({"scales": {"u": ONE}, "values": "int4"}, "'u', which is no float32 array"),
        ({"scales": {"v": -ONE}, "values": "int4"}, r"the scale of 'v' is array\(\[-1"),
        (
            {"scales": {"v": ONE * 0.3}, "values": "int4"},
            "'v' is not -7 to 7 times its",
        ),
        ({"scales": {"v": ONE / 8}, "values": "int4"}, "'v' is not -7 to 7 times its"),
        ({"known": {}, "previous": {}}, "not both"),
        ({"previous": {}}, "give the masks"),
        ({"metadata": {"x": float("nan")}}, "cannot be written"),
        ({"metadata": {"x": {1, 2}}}, "cannot be written"),
        (
            {"masks": {"v": np.ones(2, bool)}, "known": {"v": np.zeros(2, bool)}},
            "not the known ones",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(given, line):
    with pytest.raises(InputError, match=line):
        wire.encode(**{"variables": {"v": np.ones(2, np.float32)}} | given)
