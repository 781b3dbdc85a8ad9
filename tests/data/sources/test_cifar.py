"""CIFAR from parquet files, the binary version, and the hub (stood in for)."""

import io
import os
from pathlib import Path

import datasets
import jax.numpy as jnp
import numpy as np
import pytest
from images import pictures, write_images
from PIL import Image

from fedsparsify_jax import data
from fedsparsify_jax.data.normalization import channel_normalization
from fedsparsify_jax.data.sources import cifar
from fedsparsify_jax.data.subset import balanced_rows
from fedsparsify_jax.errors import InputError

TRAIN, TEST = "train-00000-of-00001.parquet", "test-00000-of-00001.parquet"


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """Six training pictures of three classes, two test pictures."""
    write_images(tmp_path / TRAIN, pictures(6), label=[0, 1, 2, 2, 1, 9])
    write_images(tmp_path / TEST, pictures(2, seed=1), label=[3, 4])
    return tmp_path


def test_parquet_pixels_are_exact(parquet: Path) -> None:
    dataset = data.load("cifar10", parquet)
    np.testing.assert_array_equal(dataset.train.x, pictures(6))
    np.testing.assert_array_equal(dataset.test.x, pictures(2, seed=1))
    assert dataset.train.x.dtype == np.uint8
    assert dataset.train.y.tolist() == [0, 1, 2, 2, 1, 9]
    assert dataset.test.y.tolist() == [3, 4]
    assert (dataset.num_classes, dataset.task) == (10, "classification")
    assert dataset.augment is data.crop_and_flip


def test_the_test_set_does_not_enter_the_statistics(parquet: Path) -> None:
    dataset = data.load("cifar10", parquet)
    assert dataset.normalization == channel_normalization(np.stack(pictures(6)))
    normalised = dataset.normalization(jnp.asarray(dataset.train.x))
    np.testing.assert_allclose(normalised.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std((0, 1, 2)), 1, rtol=1e-5)


def test_a_subset_decodes_only_its_rows(
    parquet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = [0, 1, 0, 1, 0, 1]
    write_images(parquet / TRAIN, pictures(6), label=labels)
    decoded = []
    original = datasets.Image.decode_example

    def count(self, value, *args, **options):
        decoded.append(value)
        return original(self, value, *args, **options)

    monkeypatch.setattr(datasets.Image, "decode_example", count)
    dataset = data.load("cifar10", parquet, train_subset=2, seed=3)
    assert len(decoded) == 2 + 2  # of training and test
    assert sorted(dataset.train.y.tolist()) == [0, 1]
    everything = np.stack(pictures(6))
    for image, label in zip(dataset.train.x, dataset.train.y, strict=True):
        [row] = [i for i in range(6) if np.array_equal(everything[i], image)]
        assert labels[row] == label


def test_cifar100_fine_and_coarse(tmp_path: Path) -> None:
    fine, coarse = [99, 0, 7], [19, 3, 0]
    for name in (TRAIN, TEST):
        path = tmp_path / "cifar100" / name
        write_images(path, pictures(3), fine_label=fine, coarse_label=coarse)
    dataset = data.load("cifar100", tmp_path)
    assert (dataset.train.y.tolist(), dataset.num_classes) == (fine, 100)
    dataset = data.load("cifar100", tmp_path, coarse=True)
    assert (dataset.train.y.tolist(), dataset.num_classes) == (coarse, 20)
    np.testing.assert_array_equal(dataset.test.x, pictures(3))


def test_shards_are_joined(tmp_path: Path) -> None:
    every = pictures(5)
    first, second = "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"
    write_images(tmp_path / first, every[:3], label=[0, 1, 2])
    write_images(tmp_path / TEST, every[:1], label=[0])
    with pytest.raises(InputError, match="holds 1 of 2 files of the train split"):
        data.load("cifar10", tmp_path)
    write_images(tmp_path / second, every[3:], label=[3, 4])
    dataset = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.train.x, every)
    assert dataset.train.y.tolist() == [0, 1, 2, 3, 4]


def test_gray_pictures_among_coloured_ones(tmp_path: Path) -> None:
    gray = np.arange(1024, dtype=np.uint8).reshape(32, 32)
    colour = np.stack([gray] * 3, -1)
    write_images(tmp_path / TRAIN, [gray, colour + np.uint8(1)], label=[0, 1])
    write_images(tmp_path / TEST, [colour], label=[0])
    dataset = data.load("cifar10", tmp_path)
    np.testing.assert_array_equal(dataset.train.x[0], colour)


def binary_records(images: np.ndarray, *labels: list[int]) -> bytes:
    """Label bytes, then the red, green and blue plane of each image."""
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([np.array(labels, np.uint8).T, planes], 1).tobytes()


@pytest.fixture
def binary10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The official layout with 2 records a file in place of 10,000."""
    small = cifar.CIFAR10.layout._replace(train_records=2, test_records=2)
    monkeypatch.setattr(cifar, "CIFAR10", cifar.CIFAR10._replace(layout=small))
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    images = np.stack(pictures(12))
    for i, name in enumerate((*small.train, *small.test)):
        contents = binary_records(images[2 * i : 2 * i + 2], [i, 9 - i])
        (folder / name).write_bytes(contents)
    return tmp_path


def test_binary_pixels_are_exact(binary10: Path) -> None:
    for directory in (binary10, binary10 / "cifar-10-batches-bin"):
        dataset = data.load("cifar10", directory)
        np.testing.assert_array_equal(dataset.train.x, pictures(12)[:10])
        np.testing.assert_array_equal(dataset.test.x, pictures(12)[10:])
        assert dataset.train.y.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
        assert dataset.test.y.tolist() == [5, 4]
        assert dataset.num_classes == 10


def test_binary_subset(binary10: Path) -> None:
    dataset = data.load("cifar10", binary10, train_subset=10)
    assert sorted(dataset.train.y.tolist()) == list(range(10))
    assert data.load("cifar10", binary10, train_subset=4).train.x.shape[0] == 4


@pytest.mark.parametrize(
    ("coarse", "expected", "classes"), [(False, [99, 50], 100), (True, [19, 0], 20)]
)
def test_binary_cifar100(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    coarse: bool,
    expected: list[int],
    classes: int,
) -> None:
    small = cifar.CIFAR100.layout._replace(train_records=2, test_records=2)
    for name in ("CIFAR100", "CIFAR100_COARSE"):
        monkeypatch.setattr(cifar, name, getattr(cifar, name)._replace(layout=small))
    for name in ("train.bin", "test.bin"):
        contents = binary_records(np.stack(pictures(2)), [19, 0], [99, 50])
        (tmp_path / name).write_bytes(contents)
    dataset = data.load("cifar100", tmp_path, coarse=coarse)
    np.testing.assert_array_equal(dataset.train.x, pictures(2))
    assert (dataset.test.y.tolist(), dataset.num_classes) == (expected, classes)


def test_the_official_layout() -> None:
    """Sizes of the released files, in bytes."""
    ten, hundred = cifar.CIFAR10.layout, cifar.CIFAR100.layout
    assert ten.train_records * (1 + 3072) == 30_730_000
    assert hundred.train_records * (2 + 3072) == 153_700_000
    assert hundred.test_records * (2 + 3072) == 30_740_000
    assert (ten.train[0], ten.train[-1]) == ("data_batch_1.bin", "data_batch_5.bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda old: old[:-1], r"data_batch_3.bin is truncated: 6,145 bytes"),
        (lambda old: old[:3073], "is truncated: 3,073 bytes, expected 2 records"),
        (lambda old: old + b"1", "data_batch_3.bin is too long"),
        (lambda old: b"\x0a" + old[1:], "batch_3.bin, record 0: label 10, expected 0"),
        (lambda old: None, "cifar-10-batches-bin has no file data_batch_3.bin"),
    ],
)
def test_damaged_binary_files(binary10: Path, change, message: str) -> None:
    path = binary10 / "cifar-10-batches-bin" / "data_batch_3.bin"
    contents = change(path.read_bytes())
    if contents is None:
        path.unlink()
    else:
        path.write_bytes(contents)
    with pytest.raises(InputError, match=message):
        data.load("cifar10", binary10)


def test_damaged_parquet(parquet: Path) -> None:
    path = parquet / TRAIN
    contents = path.read_bytes()
    for damaged in (contents[: len(contents) // 2], b"", b"GIF89a"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=f"{TRAIN} is truncated or not a parquet"):
            data.load("cifar10", parquet)
    path.write_bytes(b"PAR1" + b"x" * 90 + b"PAR1")
    with pytest.raises(InputError, match=f"cannot read .*{TRAIN}: .+"):
        data.load("cifar10", parquet)


def encoded(image: np.ndarray | None, cut: bool = False) -> dict | None:
    if image is None:
        return None
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    contents = file.getvalue()
    return {"bytes": contents[: len(contents) // 2] if cut else contents, "path": None}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda p: None, "row 1: no image"),
        (lambda p: encoded(p, cut=True), "row 1: the image is damaged \\(.+\\)"),
        (lambda p: encoded(p[:30]), r"row 1: the image has size \(30, 32\), row 0"),
        (lambda p: encoded(p[..., 0] * np.uint16(9)), "row 1: images of mode I;16"),
    ],
)
def test_bad_images_are_named(parquet: Path, second, message: str) -> None:
    first = pictures(1)[0]
    features = datasets.Features(
        img=datasets.Image(), label=datasets.ClassLabel(num_classes=10)
    )
    columns = {"img": [encoded(first), second(first)], "label": [0, 1]}
    datasets.Dataset.from_dict(columns, features).to_parquet(parquet / TEST)
    with pytest.raises(InputError, match=f"the test split of .*{message}"):
        data.load("cifar10", parquet)


def test_errors_in_a_subset_give_the_row_of_the_file(parquet: Path) -> None:
    labels = [0, 1, 0, 1, 0, 1]
    rows = balanced_rows(labels, 2, seed=1).tolist()
    assert rows[1] != 1  # else position and row could not be told apart
    images = [encoded(p, cut=i == rows[1]) for i, p in enumerate(pictures(6))]
    features = datasets.Features(
        img=datasets.Image(), label=datasets.ClassLabel(num_classes=10)
    )
    table = datasets.Dataset.from_dict({"img": images, "label": labels}, features)
    table.to_parquet(parquet / TRAIN)
    with pytest.raises(
        InputError, match=f"train split of .*, row {rows[1]}: the image"
    ):
        data.load("cifar10", parquet, train_subset=2, seed=1)


def test_wrong_shape_labels_and_columns(parquet: Path) -> None:
    write_images(parquet / TEST, pictures(1, (28, 28, 3)), label=[0])
    with pytest.raises(
        InputError, match=r"test split .* images have shape \(28, 28, 3"
    ):
        data.load("cifar10", parquet)
    write_images(parquet / TEST, pictures(1), label=[10])
    with pytest.raises(InputError, match="label 10 found: with 10 classes"):
        data.load("cifar10", parquet)
    write_images(parquet / TEST, pictures(1), label=[None])
    with pytest.raises(InputError, match=r"test split .*, row 0: no label \(None\)"):
        data.load("cifar10", parquet)
    write_images(parquet / TEST, pictures(1), image="picture", label=[1])
    with pytest.raises(InputError, match="has no column 'img': it has picture, label"):
        data.load("cifar10", parquet)
    with pytest.raises(InputError, match=r"train split.*has no column 'fine_label'"):
        data.load("cifar100", parquet)


def test_a_column_without_images(parquet: Path) -> None:
    plain = datasets.Dataset.from_dict({"img": [1], "label": [1]})
    plain.to_parquet(parquet / TRAIN)
    with pytest.raises(InputError, match=r"column 'img' is .*int64.*, expected images"):
        data.load("cifar10", parquet)


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"no directory {tmp_path}/nowhere"):
        data.load("cifar10", tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"holds neither the hub's parquet .*data_batch"
    ):
        data.load("cifar10", tmp_path)
    write_images(tmp_path / "mine.parquet", pictures(1), label=[0])
    with pytest.raises(InputError, match="holds no parquet files called train"):
        data.load("cifar10", tmp_path)
    write_images(tmp_path / "train.parquet", pictures(1), label=[0])
    with pytest.raises(InputError, match="has no test split: it has train"):
        data.load("cifar10", tmp_path)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_hub_is_asked_by_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    columns = {"label": [0, 1]}
    if name == "cifar100":
        columns = {"fine_label": [0, 1], "coarse_label": [1, 0]}

    def stand_in(*args):
        asked.append(args)
        table = write_images(None, pictures(2), **columns)
        return datasets.DatasetDict(train=table, test=table)

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    dataset = data.load(name)
    assert asked == [(f"uoft-cs/{name}", None)]
    np.testing.assert_array_equal(dataset.train.x, pictures(2))
    assert dataset.train.y.tolist() == [0, 1]


def test_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args):
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError) as caught:
        data.load("cifar10")
    assert str(caught.value) == (
        "cifar10 is not to be had from the Hugging Face hub as uoft-cs/cifar10 (no "
        "route to host): put its parquet files into a directory and name it with "
        "--data-dir"
    )


def shared_cifar10() -> Path | None:
    """The real files: an environment variable, beside the clone, or the workplace."""
    root = Path(__file__).parents[2]
    places = [root.parent / "shared", Path("/work/shared")]
    if "FEDSPARSIFY_SHARED" in os.environ:
        places.insert(0, Path(os.environ["FEDSPARSIFY_SHARED"]))
    folders = [place / "data" / "cifar10" for place in places]
    return next((f for f in folders if (f / TRAIN).is_file()), None)


def test_real_cifar10_or_its_like(tmp_path: Path) -> None:
    """100 training images of the real files; where they are not, of similar ones."""
    directory = shared_cifar10()
    if directory is None:
        directory = tmp_path
        labels = np.arange(200) % 10
        write_images(tmp_path / TRAIN, pictures(200), label=labels.tolist())
        write_images(tmp_path / TEST, pictures(50, seed=1), label=labels[:50].tolist())
    dataset = data.load("cifar10", directory, train_subset=100)
    assert dataset.train.x.shape == (100, 32, 32, 3)
    assert np.bincount(dataset.train.y).tolist() == [10] * 10
    counts = np.bincount(dataset.test.y, minlength=10)
    assert dataset.test.x.shape[1:] == (32, 32, 3)
    assert len(set(counts.tolist())) == 1  # the test set is balanced
    assert 80 < np.mean(dataset.normalization.mean) < 160
