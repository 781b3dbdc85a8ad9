"""Any image data set in the hub's format, and how local files are found."""

import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from images import pictures, write_images

from fedsparsify_jax import data
from fedsparsify_jax.data.normalization import Normalization, channel_normalization
from fedsparsify_jax.data.sources.hub import parse_hub_name
from fedsparsify_jax.errors import InputError

NAME = "hf:someone/pets"


def test_columns_are_found_by_type(tmp_path: Path) -> None:
    colour, gray = pictures(3, (5, 4, 3)), pictures(2, (5, 4))
    write_images(tmp_path / "train.parquet", colour, image="photo", animal=[0, 1, 99])
    write_images(tmp_path / "test.parquet", gray, image="photo", animal=[1, 0])
    dataset = data.load(NAME, tmp_path)
    assert (dataset.name, dataset.num_classes) == ("someone/pets", 100)  # as declared
    np.testing.assert_array_equal(dataset.train.x, colour)
    np.testing.assert_array_equal(dataset.test.x, np.stack([gray] * 3, -1))
    assert (dataset.train.y.tolist(), dataset.test.y.tolist()) == ([0, 1, 99], [1, 0])
    assert dataset.normalization == channel_normalization(np.stack(colour))


def test_gray_sets_have_no_channel_axis(tmp_path: Path) -> None:
    gray = pictures(2, (5, 4))
    for split in ("train", "test"):
        write_images(tmp_path / f"{split}.parquet", gray, label=[0, 1])
    dataset = data.load(NAME, tmp_path)
    np.testing.assert_array_equal(dataset.train.x, gray)
    assert dataset.normalization == Normalization(0.0, 255.0)


@pytest.mark.parametrize(
    "place", ["validation.parquet", "data/val-00000-of-00001.parquet", "dev/0.parquet"]
)
def test_validation_stands_in_for_a_missing_test_split(
    tmp_path: Path, place: str
) -> None:
    write_images(tmp_path / "train.parquet", pictures(2, (4, 4)), label=[0, 1])
    write_images(tmp_path / place, pictures(1, (4, 4), seed=1), label=[1])
    dataset = data.load(NAME, tmp_path)
    np.testing.assert_array_equal(dataset.test.x, pictures(1, (4, 4), seed=1))


def test_test_goes_before_validation(tmp_path: Path) -> None:
    for split, n in (("train", 4), ("validation", 3), ("test", 2)):
        path = tmp_path / split / "0000.parquet"
        write_images(path, pictures(n, (4, 4)), label=[0, 1, 0, 1][:n])
    dataset = data.load(NAME, tmp_path)
    assert (len(dataset.train.y), len(dataset.test.y)) == (4, 2)


def test_several_label_columns(tmp_path: Path) -> None:
    for split in ("train", "test"):
        path = tmp_path / f"{split}.parquet"
        write_images(path, pictures(2, (4, 4)), coarse=[1, 0], fine=[50, 60])
    with pytest.raises(
        InputError, match=r"several ClassLabel columns \(coarse, fine\): .*label=COLUMN"
    ):
        data.load(NAME, tmp_path)
    dataset = data.load(f"{NAME},label=fine", tmp_path)
    assert dataset.train.y.tolist() == [50, 60]
    with pytest.raises(InputError, match="no column 'breed': it has img, coarse, fine"):
        data.load(f"{NAME},label=breed", tmp_path)


def test_plain_integer_labels_by_name(tmp_path: Path) -> None:
    for split in ("train", "test"):
        table = write_images(None, pictures(4, (4, 4)), breed=[0, 1, 2, 3])
        plain = table.cast_column("breed", datasets.Value("int16"))
        plain.to_parquet(tmp_path / f"{split}.parquet")
    message = r"has no ClassLabel column and none called label: it has img .*breed"
    with pytest.raises(InputError, match=message):
        data.load(NAME, tmp_path)
    dataset = data.load(f"{NAME},label=breed", tmp_path, train_subset=4)
    assert (dataset.num_classes, dataset.train.y.tolist()) == (4, [0, 1, 2, 3])


def test_a_table_of_numbers_is_a_data_set_too(tmp_path: Path) -> None:
    features = datasets.Features(
        x=datasets.Value("float32"), label=datasets.ClassLabel(num_classes=2)
    )
    table = datasets.Dataset.from_dict({"x": [1.0, 3.0], "label": [0, 1]}, features)
    for split in ("train", "test"):
        table.to_parquet(tmp_path / f"{split}.parquet")
    dataset = data.load(NAME, tmp_path)
    assert dataset.train.x.tolist() == [[1.0], [3.0]]
    assert dataset.normalization == Normalization((2.0,), (1.0,))
    for split in ("train", "test"):
        table.remove_columns("x").to_parquet(tmp_path / f"{split}.parquet")
    message = "has no column of images or numbers for inputs: it has label"
    with pytest.raises(InputError, match=message):
        data.load(NAME, tmp_path)


def test_hidden_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "train.parquet", pictures(2, (4, 4)), label=[0, 1])
    write_images(tmp_path / "test.parquet", pictures(2, (4, 4)), label=[0, -1])
    with pytest.raises(InputError, match=r"test split of .*, row 1: no label \(-1\)"):
        data.load(NAME, tmp_path)


def test_an_empty_split(tmp_path: Path, monkeypatch) -> None:
    train = write_images(tmp_path / "train.parquet", pictures(1, (4, 4)), label=[0])
    empty = write_images(tmp_path / "test.parquet", [], label=[])
    with pytest.raises(InputError, match=r"cannot read .*test.parquet: .*no data"):
        data.load(NAME, tmp_path)
    splits = datasets.DatasetDict(train=train, test=empty)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args: splits)
    with pytest.raises(InputError, match="the test split of someone/pets is empty"):
        data.load(NAME)


def test_a_subset(tmp_path: Path) -> None:
    labels = [0, 0, 1, 1]
    for split in ("train", "test"):
        path = tmp_path / f"{split}.parquet"
        write_images(path, pictures(4, (4, 4)), label=labels)
    dataset = data.load(NAME, tmp_path, train_subset=2, seed=1)
    assert (dataset.train.y.tolist(), len(dataset.test.y)) == ([0, 1], 4)


def test_directories_with_pattern_characters(tmp_path: Path) -> None:
    folder = tmp_path / "test[1] *"
    for split in ("train", "test"):
        path = folder / f"{split}.parquet"
        write_images(path, pictures(2, (4, 4)), label=[0, 1])
    np.testing.assert_array_equal(data.load(NAME, folder).train.x, pictures(2, (4, 4)))


def test_two_candidates_for_a_split(tmp_path: Path) -> None:
    for place in ("en/train.parquet", "fr/train.parquet"):
        write_images(tmp_path / place, pictures(1, (4, 4)), label=[0])
    message = r"several candidates for train \(en/train.parquet, fr/train.parquet\)"
    with pytest.raises(InputError, match=message):
        data.load(NAME, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf:pets", r"'hf:pets' is not of the form hf:owner/name\[,image=COLUMN\]"),
        ("hf:/pets", "not of the form"),
        ("hf:a/b/c", "not of the form"),
        ("hf:", "not of the form"),
        ("hf:a/b,labels=x", "unknown option of hf:a/b 'labels': did you mean 'label'"),
        ("hf:a/b,label", "option 'label' of hf:a/b has no value"),
        ("hf:a/b,label=", "option 'label' of hf:a/b has no value"),
    ],
)
def test_names_that_cannot_be(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        data.load(name)


def test_all_options_of_a_name() -> None:
    parsed = parse_hub_name("hf:a/b,config=c,image=i,label=l")
    assert parsed == ("a/b", "i", "l", "c")


def test_the_hub_is_asked(monkeypatch) -> None:
    asked = []

    def stand_in(*args):
        asked.append(args)
        table = write_images(None, pictures(2, (4, 4)), label=[0, 1])
        named = datasets.Dataset(table.data, split="validation")
        return datasets.DatasetDict(train=table, validation=named)

    monkeypatch.setattr(datasets, "load_dataset", stand_in)
    dataset = data.load(f"{NAME},config=small")
    assert asked == [("someone/pets", "small")]
    assert dataset.test.y.tolist() == [0, 1]


def test_the_hub_refuses(monkeypatch) -> None:
    def fail(*args):
        raise RuntimeError("outer") from FileNotFoundError("no such repository\nx")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    message = (
        r"someone/pets is not to be had .* \(no such repository\): put its parquet"
    )
    with pytest.raises(InputError, match=message):
        data.load(NAME)


@pytest.mark.parametrize("name", [NAME, "cifar10", "cifar100", "imdb"])
def test_without_the_package(name: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"install fedsparsify_jax\[hub\]"):
        data.load(name)
