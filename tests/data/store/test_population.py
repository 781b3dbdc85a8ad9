"""Stores of clients on disk: what is written comes back, what is damaged is refused."""

import json
import shutil

import chex
import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.data.store.header import HEADER, described, write_header
from fedsparsify_jax.errors import InputError

COUNTS = (3, 1, 5, 2)


def toy(dtype=np.uint8, task="classification"):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (sum(COUNTS), 2, 3)).astype(dtype)
    y = rng.integers(0, 4, sum(COUNTS))
    return data.from_arrays(
        "toy",
        x,
        y if task == "classification" else y / 8,
        x[:2],
        [3, 0],
        normalization=data.Normalization((0.0, 1.0, 2.0), 9.0),
        task=task,
    )


def parts():
    order = np.random.default_rng(1).permutation(sum(COUNTS))
    return np.split(order, np.cumsum(COUNTS)[:-1])


@pytest.fixture
def store(tmp_path):
    return data.write_population(tmp_path / "store", toy(), parts())


@pytest.mark.parametrize(
    ("dtype", "task"), [(np.uint8, "classification"), (np.float16, "regression")]
)
def test_a_gathered_cohort_is_that_of_the_stacked_clients(tmp_path, dtype, task):
    dataset = toy(dtype, task)
    population = data.write_population(tmp_path / "store", dataset, parts())
    stacked = data.stack(dataset.train, parts())
    for ids in ([2, 0], [3], [0, 1, 2, 3], []):
        expected = type(stacked)(*(np.asarray(leaf)[ids] for leaf in stacked))
        cohort = population.gather(np.array(ids, np.int32))
        assert [leaf.dtype for leaf in cohort] == [leaf.dtype for leaf in stacked]
        chex.assert_trees_all_equal(cohort, expected)


def test_everything_else_comes_back_too(store):
    assert (store.num_clients, store.longest) == (4, 5)
    assert store.count.tolist() == list(COUNTS) and store.count.dtype == np.int32
    back, dataset = data.load("store", store.directory), toy()
    kept = ("name", "num_classes", "normalization", "task")
    assert all(getattr(back, name) == getattr(dataset, name) for name in kept)
    chex.assert_trees_all_equal(back.test, dataset.test)
    again = data.stack(back.train, store.parts)
    chex.assert_trees_all_equal(again, data.stack(dataset.train, parts()))
    assert isinstance(back.train.x, np.memmap) and not back.train.x.flags.writeable


def test_files_are_plain_arrays_in_client_order(store):
    order = np.concatenate(parts())
    x = np.load(store.directory / "x.npy", allow_pickle=False)
    np.testing.assert_array_equal(x, toy().train.x[order])
    offsets = np.load(store.directory / "offsets.npy", allow_pickle=False)
    assert offsets.tolist() == [0, 3, 4, 9, 11]


def test_a_page_is_left_out_of_nothing(tmp_path):
    """Rows that straddle pages, and more of them than one advice covers."""
    x = np.random.default_rng(0).integers(0, 256, (40, 3001), dtype=np.uint8)
    dataset = data.from_arrays("wide", x, np.arange(40) % 2, x[:1], [0])
    sizes = np.split(np.arange(40), [1, 14, 20])
    population = data.write_population(tmp_path / "store", dataset, sizes)
    for _ in range(2):  # what was let go of is read again
        cohort = population.gather([3, 1])
        np.testing.assert_array_equal(cohort.x[0], x[20:40])
        np.testing.assert_array_equal(cohort.x[1, :13], x[1:14])
        assert not cohort.x[1, 13:].any()


@pytest.mark.parametrize("ids", [[4], [-1, 0]])
def test_clients_that_are_not_there(store, ids):
    with pytest.raises(ValueError, match="has 0 to 3"):
        store.gather(ids)


def edit(change):
    def damage(directory):
        path = directory / HEADER
        header = json.loads(path.read_text())
        change(header)
        write_header(directory, header)

    return damage


def truncate(directory):
    path = directory / "x.npy"
    path.write_bytes(path.read_bytes()[:-1])


def pickled(directory):
    np.save(directory / "y.npy", np.array([{}], object), allow_pickle=True)


def other_lengths(directory):
    np.save(directory / "y.npy", np.zeros(3, np.int32))


def with_array(name, array):
    """Another array in place of one of the store's, as if it had been written so."""

    def damage(directory):
        np.save(directory / f"{name}.npy", array)
        entry = {name: described(array)}
        edit(lambda header: header["arrays"].update(entry))(directory)

    return damage


def flipped(name, place):
    def damage(directory):
        contents = bytearray((directory / name).read_bytes())
        contents[place] ^= 1
        (directory / name).write_bytes(contents)

    return damage


def renamed(directory):
    text = (directory / HEADER).read_text()
    (directory / HEADER).write_text(text.replace('"name": "', '"name": "un'))


Y = np.arange(11, dtype=np.int32) % 2


DAMAGES = {
    "no directory": shutil.rmtree,
    "was interrupted": lambda directory: (directory / HEADER).unlink(),
    "not the header": lambda directory: (directory / HEADER).write_text("{"),
    "not the header of": lambda directory: (directory / HEADER).write_text("[]"),
    "not the header of a": edit(lambda header: header.pop("clients")),
    "not the header of a store": edit(lambda header: header.update(task="guess")),
    "version 9: expected": edit(lambda header: header.update(version=9)),
    "of format 'other'": edit(lambda header: header.update(format="other")),
    "lacks test_x.npy": lambda directory: (directory / "test_x.npy").unlink(),
    "x.npy is not a whole .npy file": truncate,
    "y.npy is not a whole .npy file": pickled,
    r"says <i4 \[11\]: the files are not of one store": other_lengths,
    "does not divide the 11 examples among 4 clients": with_array(
        "offsets", np.array([0, 3, 3, 9, 11])
    ),
    "offsets.npy is damaged, its checksum differs": flipped("offsets.npy", -8),
    "y.npy is damaged, its checksum differs": flipped("y.npy", -1),
    "damaged .its checksum differs": renamed,
    "has labels from -1 to 1": with_array("y", Y - (Y == 0)),
    "has labels from 0 to 9: with": with_array("y", 9 * Y),
    "num_classes is 2000000": edit(lambda header: header.update(num_classes=2_000_000)),
    r"num_classes are \(4, '2'\)": edit(lambda header: header.update(num_classes="2")),
    "normalization std is 0": edit(
        lambda header: header.update(normalization={"mean": 0, "std": 0})
    ),
    "training arrays of int64": with_array("y", Y.astype(np.int64)),
    "header of a store of": lambda directory: (directory / HEADER).write_text(
        "[" * 9999
    ),
    "examples among 5 clients": edit(lambda header: header.update(clients=5)),
}


@pytest.mark.parametrize("message", DAMAGES)
def test_what_is_no_store_is_refused(store, message):
    DAMAGES[message](store.directory)
    with pytest.raises(InputError, match=message) as raised:
        data.open_population(store.directory)
    assert str(store.directory) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_damaged_example_is_found_when_its_client_is_read(store):
    flipped("x.npy", -1)(store.directory)
    damaged = data.open_population(store.directory)
    damaged.gather([0, 1, 2])
    with pytest.raises(
        InputError, match=r"x.npy: the examples of client 3 are damaged"
    ):
        damaged.gather([2, 3])


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((0, 2)), [], "client 1 has no examples"),
        (np.zeros((1, 2)), [2], "client 1 labels go up to 2: with 2 classes"),
        (np.zeros((1, 2)), [0, 1], r"client 1 labels have shape \(2,\)"),
        (np.zeros((1, 3)), [0], r"client 1 inputs are float32 of shape \(3,\)"),
        (np.zeros((1, 2), np.uint8), [0], "client 1 inputs are uint8"),
        (np.full((1, 2), np.nan), [0], "client 1 inputs hold NaN"),
    ],
)
def test_a_client_that_does_not_fit_leaves_no_store(tmp_path, x, y, message):
    with (
        pytest.raises(InputError, match=message),
        data.PopulationWriter(
            tmp_path / "store", np.ones((1, 2)), [1], num_classes=2
        ) as writer,
    ):
        writer.append(np.ones((1, 2)), [0])
        writer.append(x, y)
    with pytest.raises(InputError, match="interrupted"):
        data.open_population(tmp_path / "store")


def test_a_store_goes_into_a_directory_of_its_own(store, tmp_path):
    with pytest.raises(InputError, match="is not empty"):
        data.write_population(store.directory, toy(), parts())
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write clients to"):
        data.write_population(tmp_path / "file", toy(), parts())
    with pytest.raises(InputError, match="no client was written"):
        data.write_population(tmp_path / "none", toy(), [])
    with pytest.raises(InputError, match="needs --data-dir"):
        data.load("store")
