"""FashionMNIST: the official files and the hub's schema."""

import gzip
import hashlib
import sys

import datasets
import numpy as np
import pytest
from damaged import idx_bytes
from images import pictures, write_images

from fedsparsify_jax import data
from fedsparsify_jax.data.sources import fashion_mnist
from fedsparsify_jax.errors import InputError


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A directory with four small files that pass for the official ones."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
            name, contents = f"{split}-{kind}-ubyte", idx_bytes(array)
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(contents))
            digest = hashlib.sha256(contents).hexdigest()
            monkeypatch.setitem(fashion_mnist.SHA256, name, digest)
    return tmp_path


IMAGES = "train-images-idx3-ubyte"


def test_plain_and_gzipped_files_are_the_same_data(small):
    packed = data.load("fashion_mnist", small)
    for path in small.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    plain = data.load("fashion_mnist", small)
    assert packed.train.x.shape == (20, 28, 28) and packed.num_classes == 10
    assert packed.normalization == data.Normalization(0.0, 256.0)
    for one, other in zip(packed.train, plain.train, strict=True):
        assert np.array_equal(one, other)


def test_missing_files_are_named(small):
    with pytest.raises(InputError, match=r"no directory .*none"):
        data.load("fashion_mnist", small / "none")
    (small / f"{IMAGES}.gz").unlink()
    with pytest.raises(InputError, match=f"has no file {IMAGES}.gz or {IMAGES}"):
        data.load("fashion_mnist", small)


def test_truncated_and_corrupt_files_are_told_apart(small):
    path = small / f"{IMAGES}.gz"
    packed, contents = path.read_bytes(), gzip.decompress(path.read_bytes())
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError, match=f"{IMAGES}.gz is truncated"):
        data.load("fashion_mnist", small)
    path.write_bytes(gzip.compress(contents[:-100]))
    with pytest.raises(InputError, match=r"is truncated: 15,580 bytes of .* 15,680"):
        data.load("fashion_mnist", small)
    path.write_bytes(gzip.compress(contents[:-1] + bytes([contents[-1] ^ 1])))
    with pytest.raises(InputError, match="corrupt or not the official file"):
        data.load("fashion_mnist", small)


def test_the_official_files_load():
    directory = fashion_mnist.DEBIAN_DIR
    if not directory.is_dir():
        pytest.fail(f"{directory} is missing: apt-get install dataset-fashion-mnist")
    fashion = data.load("fashion_mnist")
    assert fashion.train.x.shape == (60_000, 28, 28)
    assert fashion.test.x.shape == (10_000, 28, 28)
    assert fashion.train.x.dtype == np.uint8
    assert np.bincount(fashion.train.y).tolist() == [6_000] * 10
    assert np.bincount(fashion.test.y).tolist() == [1_000] * 10


@pytest.fixture
def nothing_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN_DIR", tmp_path / "not-installed")


def hub_splits():
    """Small splits as the hub stores them: encoded images and classes."""
    pixels = {
        "train": pictures(12, (28, 28)),
        "test": pictures(10, (28, 28), seed=1),
    }
    splits = {
        split: write_images(
            None, images, image="image", label=[n % 10 for n in range(len(images))]
        )
        for split, images in pixels.items()
    }
    return splits, pixels


def test_the_hub_gives_the_same_arrays(monkeypatch, nothing_installed):
    splits, pixels = hub_splits()
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name: (asked.append(name), splits)[1]
    )
    fashion = data.load("fashion_mnist")
    assert asked == [fashion_mnist.HUB_NAME]
    assert np.array_equal(fashion.train.x, pixels["train"])
    assert np.array_equal(fashion.test.x, pixels["test"])
    assert fashion.train.x.dtype == np.uint8
    assert fashion.train.y.tolist() == [*range(10), 0, 1]


def test_an_unreachable_hub_is_one_line_of_advice(monkeypatch, nothing_installed):
    def unreachable(name):
        raise ConnectionError(f"couldn't reach {name}\nTraceback: and so on")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(InputError, match="couldn't reach zalando") as caught:
        data.load("fashion_mnist")
    assert "\n" not in str(caught.value)
    assert "dataset-fashion-mnist" in str(caught.value)
    assert "--data-dir" in str(caught.value)


def test_without_the_hub_library_its_extra_is_named(monkeypatch, nothing_installed):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"fedsparsify_jax\[hub\]"):
        data.load("fashion_mnist")
