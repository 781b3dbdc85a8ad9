"""The IDX format: what is written comes back, what is damaged is refused."""

import gzip
import hashlib
import struct

import numpy as np
import pytest
from damaged import idx_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsparsify_jax.data.formats.idx import check_sha256, parse_idx, read_bytes
from fedsparsify_jax.errors import InputError

byte_arrays = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
)


@given(byte_arrays)
@settings(deadline=None)
def test_idx_round_trip(array):
    parsed = parse_idx(idx_bytes(array), "f")
    assert parsed.dtype == np.uint8 and parsed.shape == array.shape
    assert np.array_equal(parsed, array)


@given(byte_arrays, st.data())
@settings(deadline=None)
def test_idx_cut_short_or_extended_is_refused(array, draw):
    contents = idx_bytes(array)
    cut = contents[: draw.draw(st.integers(0, len(contents) - 1))]
    with pytest.raises(InputError, match=r"^f is (truncated|not an IDX file)"):
        parse_idx(cut, "f")
    with pytest.raises(InputError, match=r"^f is too long"):
        parse_idx(contents + draw.draw(st.binary(min_size=1, max_size=9)), "f")


@given(byte_arrays, st.data())
@settings(deadline=None, max_examples=200)
def test_idx_with_a_damaged_header_is_refused_or_harmless(array, draw):
    damaged = bytearray(idx_bytes(array))
    where = draw.draw(st.integers(0, 3 + 4 * array.ndim))
    damaged[where] ^= draw.draw(st.integers(1, 255))
    try:
        parsed = parse_idx(bytes(damaged), "f")
    except InputError as error:
        assert str(error).startswith("f ") and "\n" not in str(error)
        return
    # The data has no checksum: a header that still fits is taken at its word.
    assert parsed.tobytes() == bytes(damaged)[4 + 4 * parsed.ndim :]


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "wrong magic number"),
        (b"\x1f\x8b\x08\x00", "wrong magic number"),
        (bytes([0, 0, 13, 1]) + bytes(8), "IDX type 13: expected 8"),
        (bytes([0, 0, 8, 3]) + bytes(8), "truncated inside its header"),
        (bytes([0, 0, 8, 70]) + bytes(280), "impossible header"),
        (
            bytes([0, 0, 8, 4]) + struct.pack(">4I", 0, *[2**32 - 1] * 3),
            "impossible header",
        ),
        (bytes([0, 0, 8, 1, 0, 0, 16, 0]) + b"ab", "2 bytes of data .* says 4,096"),
    ],
)
def test_idx_errors_say_what_is_wrong(contents, message):
    with pytest.raises(InputError, match=message):
        parse_idx(contents, "f")


def test_read_bytes_plain_and_gzipped(tmp_path):
    (tmp_path / "plain").write_bytes(b"abc")
    (tmp_path / "packed.gz").write_bytes(gzip.compress(b"abc"))
    assert read_bytes(tmp_path / "plain") == read_bytes(tmp_path / "packed.gz")


def test_read_bytes_of_damaged_and_missing_files(tmp_path):
    packed = gzip.compress(bytes(range(256)) * 9)
    flipped = packed[:40] + bytes([packed[40] ^ 255]) + packed[41:]
    for contents in (packed[:30], packed[:5], packed[:-3], b"plain", flipped):
        (tmp_path / "a.gz").write_bytes(contents)
        with pytest.raises(InputError, match=r"a.gz is truncated or not gzip"):
            read_bytes(tmp_path / "a.gz")
    with pytest.raises(InputError, match=r"cannot read .*none: No such file"):
        read_bytes(tmp_path / "none")
    with pytest.raises(InputError, match=r"cannot read .*Is a directory"):
        read_bytes(tmp_path)


def test_checksum_names_both_sums():
    check_sha256(b"abc", hashlib.sha256(b"abc").hexdigest(), "f")
    with pytest.raises(InputError, match=r"^f is corrupt .*SHA-256 ba7816bf8f01\.\.\."):
        check_sha256(b"abc", "0" * 64, "f")
