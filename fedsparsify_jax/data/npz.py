"""The user's own arrays from a NumPy ``.npz`` file."""

from pathlib import Path

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, from_arrays
from fedsparsify_jax.errors import InputError

ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def load_npz(data_dir: Path | None = None) -> Dataset:
    """Loads ``x_train``, ``y_train``, ``x_test`` and ``y_test`` from an npz file.

    Write one with ``numpy.savez("mine.npz", x_train=..., y_train=..., ...)``; what the
    arrays must be is said in `dataset.from_arrays`. Pickled contents are refused.

    Args:
      data_dir: the file, or a directory that holds exactly one.

    Raises:
      InputError: if the file is missing, damaged, or lacks an array.
    """
    if data_dir is None:
        raise InputError("the data set 'npz' needs --data-dir FILE.npz")
    path = _only_file(data_dir) if data_dir.is_dir() else data_dir
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        # Opened here: NumPy leaves its own file open when the archive is damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            missing = [name for name in ARRAYS if name not in archive]
            if missing:
                raise InputError(
                    f"{path} lacks {', '.join(missing)}: an npz data set holds "
                    f"{', '.join(ARRAYS)}"
                )
            arrays = {name: archive[name] for name in ARRAYS}
    except InputError:
        raise
    except Exception as error:  # damage shows as many kinds, even NotImplementedError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path} is not a readable npz file ({reason})") from error
    try:
        return from_arrays(path.stem, **arrays)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _only_file(directory: Path) -> Path:
    files = sorted(directory.glob("*.npz"))
    if len(files) != 1:
        raise InputError(
            f"{directory} holds {len(files)} npz files: name one with --data-dir"
        )
    return files[0]
