"""Client data on disk, mapped into memory: populations larger than the machine's.

A store is a directory of plain NumPy arrays and a header, without pickles:

    population.json   format, version, clients, arrays, and what the data set is
    x.npy  y.npy      examples [n, ...] and targets [n], client after client
    offsets.npy       int64 [N + 1]: client k has the rows offsets[k] to offsets[k + 1]
    checksums.npy     uint32 [N]: CRC-32 of every client's rows of x
    test_x.npy  test_y.npy   the central test set

`PopulationWriter` makes one. A client's examples are compared with their checksum when
they are first read, everything else when the store is opened. The files must stay as
they are while a store is open.
"""

import dataclasses
import functools
import mmap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fedsparsify_jax.data.dataset import Dataset, checked_examples
from fedsparsify_jax.data.formats.npy import read_header as read_npy_header
from fedsparsify_jax.data.store.header import (
    ARRAYS,
    HEADER,
    SMALL,
    checksum,
    read_header,
)
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientData, Examples


@dataclasses.dataclass(frozen=True, eq=False)
class Population:
    """The clients of a store.

    Attributes:
      directory: where it is.
      dataset: what it holds; ``dataset.train`` are arrays mapped from disk.
      offsets: int64 ``[N + 1]``, see above.
      checksums: uint32 ``[N]``, see above.
    """

    directory: Path
    dataset: Dataset
    offsets: np.ndarray
    checksums: np.ndarray

    @property
    def num_clients(self) -> int:
        """Returns N."""
        return len(self.offsets) - 1

    @functools.cached_property
    def count(self) -> np.ndarray:
        """Counts the examples of every client: int32 ``[N]``."""
        return np.diff(self.offsets).astype(np.int32)

    @functools.cached_property
    def longest(self) -> int:
        """Returns M, the examples of the largest client."""
        return int(self.count.max())

    @functools.cached_property
    def _unchecked(self) -> np.ndarray:
        """Marks clients whose examples were not compared with their checksum yet."""
        return np.ones(self.num_clients, bool)

    @property
    def parts(self) -> list[np.ndarray]:
        """Returns the partition of ``dataset.train``, one index array a client."""
        pairs = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return [np.arange(start, stop) for start, stop in pairs]

    def gather(self, ids: ArrayLike) -> ClientData:
        """Reads the data of some clients.

        Padded with zeros to the largest client of the whole store, so that every cohort
        of K clients has the same shapes. What was read does not stay in this process.

        Args:
          ids: integers ``[K]`` in ``0 .. N - 1``.

        Returns:
          NumPy arrays x ``[K, M, ...]``, y ``[K, M]`` and count int32 ``[K]``.

        Raises:
          ValueError: if there is no such client.
          InputError: if a client's examples are damaged.

        Example:
          >>> import tempfile
          >>> from fedsparsify_jax.data import from_arrays, write_population
          >>> toy = from_arrays("toy", [[1], [2], [3]], [0, 1, 1], [[1]], [0])
          >>> with tempfile.TemporaryDirectory() as directory:
          ...     parts = [np.array([2]), np.array([0, 1])]
          ...     population = write_population(directory, toy, parts)
          ...     data = population.gather([1, 0])
          >>> data.sizes.tolist(), data.y.tolist()
          ([2, 1], [[0, 1], [1, 0]])
        """
        chosen = np.asarray(ids, np.int64)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < self.num_clients:
            raise ValueError(
                f"clients {chosen.min()} to {chosen.max()} asked for: {self.directory} "
                f"has 0 to {self.num_clients - 1}"
            )
        spans = [(self.offsets[one], self.offsets[one + 1]) for one in chosen.tolist()]
        self._compare(chosen[self._unchecked[chosen]].tolist())
        x = _gathered(self.dataset.train.x, spans, self.longest)
        y = _gathered(self.dataset.train.y, spans, self.longest)
        count: Any = self.count[chosen]
        return ClientData(x=x, y=y, sizes=count)

    def _compare(self, clients: list[int]) -> None:
        for client in clients:
            rows = self.dataset.train.x[self.offsets[client] : self.offsets[client + 1]]
            if checksum(rows) != self.checksums[client]:
                raise InputError(
                    f"{self.directory / 'x.npy'}: the examples of client {client} are "
                    "damaged, their checksum differs: write the store again"
                )
            self._unchecked[client] = False


Span = tuple[int, int]


def _gathered(mapped: np.ndarray, spans: list[Span], length: int) -> Any:
    """Reads rows of a mapped array, span after span, each padded to ``length``."""
    rows = np.zeros((len(spans), length, *mapped.shape[1:]), mapped.dtype)
    for start, stop in spans:
        _advise(mapped, "MADV_WILLNEED", start, stop)  # all reads under way at once
    for row, (start, stop) in zip(rows, spans, strict=True):
        row[: stop - start] = mapped[start:stop]
    # Pages stay in the system's cache, which it may reclaim, but count no longer as
    # this process's memory.
    _advise(mapped, "MADV_DONTNEED", 0, len(mapped))
    return rows


def _advise(mapped: np.ndarray, name: str, start: int, stop: int) -> None:
    """Advises the system on the use of some rows, if it takes advice."""
    memory, advice = mapped.base, getattr(mmap, name, None)
    if advice is None or not isinstance(memory, mmap.mmap):
        return
    stride = mapped.strides[0]
    # The map begins at the start of the file, a page's multiple, or before the rows.
    before = len(memory) - mapped.nbytes
    first = (before + int(start) * stride) // mmap.PAGESIZE * mmap.PAGESIZE
    memory.madvise(advice, first, before + int(stop) * stride - first)


def open_population(directory: Path | str) -> Population:
    """Opens a store; reads its header, offsets and test set, but no client.

    Args:
      directory: of a store that `PopulationWriter` wrote.

    Raises:
      InputError: if it is missing, incomplete, damaged, or of another kind.
    """
    directory = Path(directory)
    # Files of the format that the header says ...
    header = read_header(directory)
    arrays = {name: _open_array(directory, name, header) for name in ARRAYS}
    # ... that fit together ...
    offsets, checksums = np.array(arrays["offsets"]), np.array(arrays["checksums"])
    clients, examples = header["clients"], len(arrays["x"])
    if (
        offsets.dtype != np.int64
        or offsets.shape != (clients + 1,)
        or checksums.shape != (clients,)
        or len(arrays["y"]) != examples
        or offsets[0] != 0
        or offsets[-1] != examples
        or np.diff(offsets).min(initial=1) < 1
    ):
        raise InputError(
            f"{directory / 'offsets.npy'} does not divide the {examples} examples "
            f"among {clients} clients: the store is damaged"
        )
    # ... and hold examples that can be trained on.
    test = checked_examples(
        f"{directory}: test",
        np.array(arrays["test_x"]),
        np.array(arrays["test_y"]),
        header["task"],
    )
    dataset = Dataset(
        name=header["name"],
        train=Examples(arrays["x"], arrays["y"]),
        test=test,
        num_classes=header["num_classes"],
        normalization=header["normalization"],
        task=header["task"],
    )
    _check_training(directory, dataset)
    return Population(
        directory=directory, dataset=dataset, offsets=offsets, checksums=checksums
    )


def _check_training(directory: Path, dataset: Dataset) -> None:
    """Checks that training examples are of the test set's kind, and labels classes."""
    for one, like in zip(dataset.train, dataset.test, strict=True):
        if one.dtype != like.dtype or one.shape[1:] != like.shape[1:]:
            raise InputError(
                f"{directory} has training arrays of {one.dtype} {one.shape[1:]} and "
                f"test arrays of {like.dtype} {like.shape[1:]}: it is damaged"
            )
    if dataset.task == "classification":
        for labels in (dataset.train.y, dataset.test.y):
            if labels.min() < 0 or labels.max() >= dataset.num_classes:
                raise InputError(
                    f"{directory} has labels from {labels.min()} to {labels.max()}: "
                    f"with {dataset.num_classes} classes they are below "
                    f"{dataset.num_classes}"
                )


def load_store(data_dir: Path | None = None) -> Dataset:
    """Loads the data set in a store; its training examples are mapped, not read.

    Args:
      data_dir: the store's directory.

    Raises:
      InputError: see `open_population`.
    """
    if data_dir is None:
        raise InputError("the data set 'store' needs --data-dir DIRECTORY")
    return open_population(data_dir).dataset


def _open_array(directory: Path, name: str, header: dict[str, Any]) -> np.ndarray:
    """Maps one of the arrays, if it is as the header describes it."""
    path = directory / f"{name}.npy"
    try:
        with path.open("rb") as file:
            actual = read_npy_header(file, path.stat().st_size, str(path))
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{directory} lacks {path.name}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole .npy file ({error})") from error
    entry = header["arrays"][name]
    dtype, shape = entry["dtype"], list(entry["shape"])
    same = (actual.dtype.str, list(actual.shape)) == (dtype, shape)
    if not same or actual.fortran_order:
        raise InputError(
            f"{path} has {actual.dtype.str} {list(actual.shape)}, {HEADER} says "
            f"{dtype} {shape}: the files are not of one store"
        )
    if name in SMALL and checksum(array) != entry["crc32"]:
        raise InputError(
            f"{path} is damaged, its checksum differs: write the store again"
        )
    return array
