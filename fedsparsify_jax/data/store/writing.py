"""Writing the stores that `reading` opens, client by client."""

import dataclasses
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fedsparsify_jax.data.dataset import (
    Dataset,
    Normalization,
    Task,
    checked_examples,
    from_arrays,
)
from fedsparsify_jax.data.store.header import checksum, described, write_header
from fedsparsify_jax.data.store.reading import Population, open_population
from fedsparsify_jax.errors import InputError


class _Rows:
    """An ``.npy`` file that grows; its header gets the final length at the end."""

    def __init__(self, path: Path, like: np.ndarray):
        self.length, self.crc32 = 0, 0
        self._row = (like.dtype, like.shape[1:])
        self.file: BinaryIO = path.open("wb")
        self._write_header()

    def _write_header(self) -> None:
        # NumPy leaves room in a header for the longest first axis there can be.
        dtype, shape = self._row
        description = {
            "descr": np.lib.format.dtype_to_descr(dtype),
            "fortran_order": False,
            "shape": (self.length, *shape),
        }
        np.lib.format.write_array_header_1_0(self.file, description)

    def append(self, rows: np.ndarray) -> None:
        contents = np.ascontiguousarray(rows).data
        self.file.write(contents)
        self.crc32 = zlib.crc32(contents, self.crc32)
        self.length += len(rows)

    def finish(self) -> dict[str, Any]:
        """Completes the file and returns its entry in the store's header."""
        self.file.seek(0)
        self._write_header()
        self.file.close()
        dtype, shape = self._row
        shape = (self.length, *shape)
        return {"dtype": dtype.str, "shape": list(shape), "crc32": self.crc32}


class PopulationWriter:
    """Writes a store client by client; only the current one is in memory.

    Args of the constructor:
      directory: a new or empty one.
      x_test: the central test set's inputs; they settle shape and dtype of all.
      y_test: its targets.
      num_classes: C; 1 in regression.
      normalization: as for `from_arrays`.
      task: ``"classification"`` or ``"regression"``.
      name: of the data set, in logs.

    Raises:
      InputError: if the directory is used or cannot be written, or for a test set that
        cannot be; `append` for a client without examples, or with others than the test
        set's kind.

    Example:
      >>> import tempfile
      >>> directory = tempfile.TemporaryDirectory()
      >>> x_test, y_test = np.zeros((2, 4), np.uint8), [0, 1]
      >>> with PopulationWriter(directory.name, x_test, y_test, num_classes=2) as store:
      ...     for client in range(3):
      ...         y = np.arange(client + 1) % 2
      ...         store.append(np.full((client + 1, 4), client, np.uint8), y)
      >>> open_population(directory.name).count.tolist()
      [1, 2, 3]
      >>> directory.cleanup()
    """

    def __init__(
        self,
        directory: Path | str,
        x_test: np.ndarray,
        y_test: np.ndarray | Sequence[int] | Sequence[float],
        *,
        num_classes: int,
        normalization: Normalization | None = None,
        task: Task = "classification",
        name: str = "population",
    ):
        # The test set in place of the training set, for the checks they have in common.
        self._dataset = from_arrays(
            name,
            *(x_test, y_test) * 2,
            normalization=normalization,
            num_classes=num_classes,
            task=task,
        )
        self.directory = Path(directory)
        self._offsets, self._checksums = [0], list[int]()
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if any(self.directory.iterdir()):
                raise InputError(f"{directory} is not empty: name a new directory")
            test = self._dataset.test
            self._x = _Rows(self.directory / "x.npy", test.x)
            self._y = _Rows(self.directory / "y.npy", test.y)
        except OSError as error:
            raise InputError(
                f"cannot write clients to {directory}: {error.strerror}"
            ) from error

    def append(self, x: np.ndarray, y: np.ndarray) -> None:
        """Adds a client.

        Args:
          x: ``[m, ...]``, one example or more.
          y: ``[m]``.
        """
        where = f"client {len(self._offsets) - 1}"
        if not len(y):
            raise InputError(f"{where} has no examples")
        x, y = checked_examples(where, x, y, self._dataset.task)
        like = self._dataset.test.x
        if x.dtype != like.dtype or x.shape[1:] != like.shape[1:]:
            raise InputError(
                f"{where} inputs are {x.dtype} of shape {x.shape[1:]}, "
                f"those of the test set {like.dtype} of shape {like.shape[1:]}"
            )
        classes = self._dataset.num_classes
        if self._dataset.task == "classification" and y.max() >= classes:
            raise InputError(
                f"{where} labels go up to {y.max()}: with {classes} classes "
                f"they end at {classes - 1}"
            )
        self._checksums.append(checksum(x))
        self._x.append(x)
        self._y.append(y)
        self._offsets.append(self._x.length)

    def close(self) -> None:
        """Completes the store; its header comes last, so half a store has none."""
        if len(self._offsets) == 1:
            self._abandon()
            raise InputError(f"no client was written to {self.directory}")
        dataset = self._dataset
        small = {
            "offsets": np.array(self._offsets, np.int64),
            "checksums": np.array(self._checksums, np.uint32),
            "test_x": dataset.test.x,
            "test_y": dataset.test.y,
        }
        entries = {"x": self._x.finish(), "y": self._y.finish()}
        for name, array in small.items():
            np.save(self.directory / f"{name}.npy", array, allow_pickle=False)
            entries[name] = described(array)
        header = {
            "name": dataset.name,
            "task": dataset.task,
            "num_classes": dataset.num_classes,
            "normalization": dataclasses.asdict(dataset.normalization),
            "clients": len(self._offsets) - 1,
            "arrays": entries,
        }
        write_header(self.directory, header)

    def _abandon(self) -> None:
        self._x.file.close()
        self._y.file.close()

    def __enter__(self) -> "PopulationWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._abandon()


def write_population(
    directory: Path | str, dataset: Dataset, parts: Sequence[np.ndarray]
) -> Population:
    """Writes a data set divided among clients, and opens the store.

    Args:
      directory: a new or empty one.
      dataset: as `load` and `from_arrays` give it. Its augmentation is code, and not
        stored.
      parts: one index array a client, from a partitioner.

    Raises:
      InputError: see `PopulationWriter`.
    """
    with PopulationWriter(
        directory,
        *dataset.test,
        num_classes=dataset.num_classes,
        normalization=dataset.normalization,
        task=dataset.task,
        name=dataset.name,
    ) as store:
        for part in parts:
            store.append(dataset.train.x[part], dataset.train.y[part])
    return open_population(directory)
