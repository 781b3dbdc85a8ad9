"""Small messages, byte by byte: the format may not change without a new version."""

import hashlib
import json

import numpy as np
import pytest

from fedsparsify_jax.deploy import wire
from fedsparsify_jax.errors import InputError

VARIABLES = {"w": np.array([0, 0, 3, 0, 0, 0, 0, -0.5, 0, 0], np.float32)}
MASKS = {"w": np.array([0, 0, 1, 0, 0, 0, 0, 1, 0, 1], bool)}
# 3.0, -0.5 and the kept 0.0: sign, exponent and fraction by hand.
NUMBERS = b"\x00\x00\x40\x40" + b"\x00\x00\x00\xbf" + b"\x00\x00\x00\x00"


def container(header: str, tensors: str, contents: bytes) -> bytes:
    """A safetensors file written by hand: length, JSON padded to 8 bytes, contents."""
    text = '{"__metadata__":{"fedsparsify":' + json.dumps(header) + "}," + tensors + "}"
    text += " " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text.encode() + contents


def test_masks_that_are_sent():
    """0010 0001 | 0100 0000: two bytes of bitmap, of which gaps would take three."""
    expected = container(
        '{"version":1,"masks":"sent","shapes":{"w":[10]}}',
        '"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},'
        '"w#kept.bitmap":{"dtype":"U8","shape":[2],"data_offsets":[12,14]}',
        NUMBERS + b"\x21\x40",
    )
    assert wire.encode(VARIABLES, MASKS) == expected


def test_masks_that_are_known():
    lines = b'["w", [10]]\n\x21\x40'
    of = hashlib.sha256(lines).hexdigest()[:16]
    expected = container(
        f'{{"version":1,"masks":"known","of":"{of}"}}',
        '"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}',
        NUMBERS,
    )
    assert wire.encode(VARIABLES, known=MASKS) == expected
    assert wire.digest(MASKS) == of


def test_changes_since_the_previous_masks():
    """Of places 2, 3 and 7 the second is dropped; place 9 grows, the seventh other."""
    previous = {"w": np.array([0, 0, 1, 1, 0, 0, 0, 1, 0, 0], bool)}
    expected = container(
        f'{{"version":1,"masks":"previous","of":"{wire.digest(previous)}"}}',
        '"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},'
        '"w#grown.bitmap":{"dtype":"U8","shape":[1],"data_offsets":[12,13]},'
        '"w#kept.bitmap":{"dtype":"U8","shape":[1],"data_offsets":[13,14]}',
        NUMBERS + b"\x02" + b"\xa0",
    )
    assert wire.encode(VARIABLES, MASKS, previous=previous) == expected


def test_positions_as_gaps():
    """Before place 300 there are 300 zeros, 255 + 45; then 9 up to place 310."""
    mask = np.zeros(400, bool)
    mask[[300, 310]] = True
    expected = container(
        '{"version":1,"masks":"sent","shapes":{"w":[400]}}',
        '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        '"w#kept.ones":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}',
        b"\x00\x00\x80\x3f" * 2 + bytes([255, 45, 9]),
    )
    assert wire.encode({"w": mask.astype(np.float32)}, {"w": mask}) == expected


def test_a_dense_message_is_a_plain_safetensors_file():
    expected = container(
        '{"version":1,"masks":"none"}',
        '"w":{"dtype":"F32","shape":[1,3],"data_offsets":[0,12]}',
        NUMBERS,
    )
    assert wire.encode({"w": np.array([[3, -0.5, 0]], np.float32)}) == expected


def test_int4():
    """The scale is 3 / 7; 7, -1 (rounded from -7 / 6) and 0: 0111 1111 | 0000 0000."""
    expected = container(
        '{"version":2,"masks":"sent","values":"int4","shapes":{"w":[10]}}',
        '"w#scale":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},'
        '"w#int4":{"dtype":"U8","shape":[2],"data_offsets":[4,6]},'
        '"w#kept.bitmap":{"dtype":"U8","shape":[2],"data_offsets":[6,8]}',
        np.float32(3 / 7).tobytes() + b"\x7f\x00" + b"\x21\x40",
    )
    message = wire.encode(VARIABLES, MASKS, values="int4")
    assert message == expected
    decoded = wire.decode(message).variables["w"]
    assert decoded[[2, 7, 9]].tolist() == [3.0, -np.float32(3 / 7), 0.0]


def test_zeros_that_are_left_out():
    """The third of the kept numbers is zero, kept all the same: 110."""
    expected = container(
        '{"version":2,"masks":"sent","shapes":{"w":[10]}}',
        '"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
        '"w#kept.bitmap":{"dtype":"U8","shape":[2],"data_offsets":[8,10]},'
        '"w#nonzero.bitmap":{"dtype":"U8","shape":[1],"data_offsets":[10,11]}',
        NUMBERS[:8] + b"\x21\x40" + b"\xc0",
    )
    message = wire.encode(VARIABLES, MASKS, nonzero=True)
    assert message == expected
    assert wire.decode(message).masks["w"].tolist() == MASKS["w"].tolist()


@pytest.mark.parametrize("version", ["3", "0", "true", "1.0", '"1"', "null"])
def test_other_versions_are_refused(version):
    message = container(
        f'{{"version":{version},"masks":"none"}}',
        '"w":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}',
        NUMBERS,
    )
    with pytest.raises(InputError, match=r"format version .*, this library reads ver"):
        wire.decode(message)
