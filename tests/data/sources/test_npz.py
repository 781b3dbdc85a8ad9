"""The user's npz files."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax import data
from fedsparsify_jax.data.sources.npz import load_npz
from fedsparsify_jax.errors import InputError


def arrays(**changes):
    rng = np.random.default_rng(0)
    good = {
        "x_train": rng.normal(size=(6, 2, 3)),
        "y_train": np.array([0, 1, 2, 0, 1, 2]),
        "x_test": rng.normal(size=(3, 2, 3)),
        "y_test": np.array([2, 1, 0]),
    }
    return {
        name: array for name, array in (good | changes).items() if array is not None
    }


def saved(directory, name="mine.npz", **changes):
    path = directory / name
    np.savez(path, **arrays(**changes))
    return path


def test_npz_from_the_file_or_its_directory(tmp_path):
    path = saved(tmp_path)
    for where in (path, tmp_path, str(path)):
        loaded = data.load("npz", where)
        assert loaded.name == "mine" and loaded.num_classes == 3
        assert loaded.train.x.dtype == np.float32
        assert loaded.train.y.dtype == np.int32
        assert np.array_equal(loaded.train.x, arrays()["x_train"].astype(np.float32))
        assert loaded.normalization == data.Normalization(0.0, 1.0)


def test_npz_bytes_are_images(tmp_path):
    image = {
        name: np.full((n, 4), 255, np.uint8)
        for name, n in (("x_train", 6), ("x_test", 3))
    }
    loaded = load_npz(saved(tmp_path, **image))
    assert loaded.train.x.dtype == np.uint8
    assert loaded.normalization == data.Normalization(0.0, 255.0)


WHOLE = np.arange(48).reshape(6, 8) * 5  # 0 to 235, flat
FRACTIONS = np.linspace(0, 255, 48).reshape(6, 2, 4)  # resized images


@pytest.mark.parametrize("x", [WHOLE, WHOLE.astype(float), FRACTIONS])
def test_npz_pixels_are_scaled_in_every_dtype(tmp_path, x):
    loaded = load_npz(saved(tmp_path, x_train=x, x_test=x[:3]))
    assert loaded.normalization == data.Normalization(0.0, 255.0)
    mixed = load_npz(saved(tmp_path, x_train=x.astype(np.uint8), x_test=x[:3]))
    assert mixed.normalization == loaded.normalization


@pytest.mark.parametrize("x", [WHOLE / 255, WHOLE - 100, WHOLE * 10, WHOLE // 10])
def test_npz_other_numbers_are_left_alone(tmp_path, x):
    loaded = load_npz(saved(tmp_path, x_train=x, x_test=x[:3]))
    assert loaded.normalization == data.Normalization()


@pytest.mark.parametrize("raw", [WHOLE.astype(np.uint8), WHOLE.astype(float)])
def test_npz_splits_of_different_scales_are_refused(tmp_path, raw):
    for scaled in (WHOLE / 255, (WHOLE - 117) / 69):
        for x_train, x_test in ((raw, scaled[:3]), (scaled, raw[3:])):
            path = saved(tmp_path, x_train=x_train, x_test=x_test)
            with pytest.raises(InputError, match=r"inputs go from .* the same scale"):
                load_npz(path)


def test_npz_float_targets_are_a_regression(tmp_path):
    ages = {"y_train": np.linspace(40, 80, 6), "y_test": np.array([50.0, 60, 70])}
    loaded = load_npz(saved(tmp_path, **ages))
    assert (loaded.task, loaded.num_classes) == ("regression", 1)
    assert np.array_equal(loaded.test.y, [50, 60, 70])


@pytest.mark.parametrize(
    ("stored", "kept"),
    [(">f4", "float32"), (">i4", "int32"), ("<i8", "int32"), ("<u8", "int32"),
     (">i2", "int16")],
)  # fmt: skip
def test_npz_numbers_arrive_in_a_dtype_that_jax_takes(tmp_path, stored, kept):
    changes = {
        "x_train": np.arange(12).reshape(6, 2).astype(stored),
        "x_test": np.zeros((3, 2), stored),
        "y_test": np.array([2, 1, 0], ">i8"),
    }
    loaded = load_npz(saved(tmp_path, **changes))
    assert loaded.train.x.dtype == np.dtype(kept)
    assert loaded.train.x.dtype.isnative and loaded.test.y.dtype.isnative
    assert np.array_equal(loaded.train.x, np.arange(12).reshape(6, 2))


def test_npz_labels_with_gaps_are_classes(tmp_path):
    labels = {
        "y_train": np.array([7, -1, 7, 7, -1, 7]),
        "y_test": np.array([5 * 10**9, 7, -1]),
    }
    loaded = load_npz(saved(tmp_path, **labels))
    assert loaded.train.y.tolist() == [1, 0, 1, 1, 0, 1]
    assert loaded.test.y.tolist() == [2, 1, 0]
    assert loaded.labels == (-1, 7, 5 * 10**9)


NAN = np.full((6, 2, 3), np.nan)
BAD_ARRAYS = {
    "lacks y_train, x_test": {"y_train": None, "x_test": None},
    "training inputs hold NaN or infinity": {"x_train": NAN},
    "test inputs hold NaN or infinity": {"x_test": np.full((3, 2, 3), np.inf)},
    "inputs hold NaN or infinity": {"x_train": np.full((6, 2, 3), 1e300)},
    "test labels have dtype float64": {"y_test": np.array([0.0, 1.0, 2.0])},
    r"shape \(2, 3\), test examples \(2, 2\)": {"x_test": np.ones((3, 2, 2))},
    r"labels have shape \(5,\) for 6 examples": {"y_train": np.arange(5)},
    r"labels have shape \(6, 2\)": {"y_train": np.ones((6, 2), int)},
    r"inputs have shape \(6,\)": {"x_train": np.ones(6)},
    "inputs have dtype <U1": {"x_train": np.full((6, 1), "a")},
    "inputs have dtype timedelta64": {"x_train": np.ones((6, 1), "m8[s]")},
    "inputs exceed 32-bit integers": {"x_train": np.full((6, 1), 2**40)},
    "the test set is empty": {
        "x_test": np.ones((0, 2, 3)),
        "y_test": np.zeros(0, int),
    },
}


@pytest.mark.parametrize("message", BAD_ARRAYS)
def test_npz_arrays_that_cannot_be_are_named(tmp_path, message):
    path = saved(tmp_path, **BAD_ARRAYS[message])
    with pytest.raises(InputError, match=message) as caught:
        load_npz(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_npz_pickles_are_refused_unopened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = saved(tmp_path, y_train=np.array([Bomb()] * 6, dtype=object))
    with pytest.raises(InputError, match="not a readable npz file"):
        load_npz(path)
    assert not (tmp_path / "exploded").exists()


def test_npz_must_be_named(tmp_path):
    with pytest.raises(InputError, match="needs --data-dir"):
        load_npz(None)
    with pytest.raises(InputError, match=r"no file .*none.npz"):
        load_npz(tmp_path / "none.npz")
    with pytest.raises(InputError, match="holds 0 npz files"):
        load_npz(tmp_path)
    saved(tmp_path, "one.npz"), saved(tmp_path, "two.npz")
    with pytest.raises(InputError, match="holds 2 npz files"):
        load_npz(tmp_path)


def test_npz_that_is_no_archive_at_all(tmp_path):
    path = tmp_path / "mine.npz"
    for contents in (b"", b"not a zip archive", b"\x80\x04."):
        path.write_bytes(contents)
        with pytest.raises(InputError, match="not a readable npz file"):
            load_npz(path)
    with path.open("wb") as file:  # one array where an archive is wanted
        np.save(file, np.ones(3))
    with pytest.raises(InputError, match="not a readable npz file"):
        load_npz(path)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("valid")).read_bytes()


def loads_or_says_why(contents):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "mine.npz"
        path.write_bytes(contents)
        try:
            return load_npz(path)
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            return None


@settings(max_examples=40, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True))
def test_npz_truncated_anywhere_is_refused(valid, where):
    assert loads_or_says_why(valid[: int(where * len(valid))]) is None


@settings(max_examples=150, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_npz_with_a_damaged_byte_loads_or_is_refused(valid, where, flip):
    damaged = bytearray(valid)
    damaged[int(where * len(valid))] ^= flip
    loaded = loads_or_says_why(bytes(damaged))
    if loaded is not None:  # whatever the byte was, the checksums held
        assert np.array_equal(loaded.train.x, arrays()["x_train"].astype(np.float32))
