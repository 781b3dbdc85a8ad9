"""Brain age: regression from structural scans (NIfTI volumes) to years.

Memory. Volumes are kept in host memory, decompressed: one of 91x109x91 voxels takes 3.6
MB as float32 and 1.8 MB as float16. The paper's 8,356 + 2,090 scans take 37.7 GB or
18.9 GB; client-stacked data are a second copy, padded to the largest client (8 clients
of up to 2,401 scans: 69 GB or 35 GB). z-scores need few bits, so float16 is a fair
choice for storage; models compute in float32 either way.
"""

import csv
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, from_arrays
from fedsparsify_jax.data.formats.limits import check_size
from fedsparsify_jax.data.formats.tables import first_line
from fedsparsify_jax.data.owners import Owners, owners_of
from fedsparsify_jax.data.subset import random_rows
from fedsparsify_jax.errors import InputError

STORAGE = ("float32", "float16")
_SUFFIXES = (".nii", ".nii.gz")
_SITE = "site"


class Scans(NamedTuple):
    """The rows of a table of scans."""

    table: Path
    paths: list[Path]
    ages: np.ndarray  # [n] float32, years
    sites: list[str] | None  # None without a column site
    lines: list[int]  # of the table, from 1, for errors

    def where(self, row: int) -> str:
        """Names a scan in errors."""
        return f"{self.table}, line {self.lines[row]} ({self.paths[row].name})"

    def take(self, rows: np.ndarray) -> "Scans":
        """Returns some of the rows."""
        return self._replace(
            paths=[self.paths[row] for row in rows],
            ages=self.ages[rows],
            sites=None if self.sites is None else [self.sites[row] for row in rows],
            lines=[self.lines[row] for row in rows],
        )


def _age(where: str, text: str | None) -> float:
    try:
        age = float(text or "")
    except ValueError:
        age = math.nan
    if not math.isfinite(age):
        raise InputError(f"{where}: age is {text or ''!r}, expected a number of years")
    return age


def _scan(where: str, table: Path, text: str | None) -> Path:
    if not text:
        raise InputError(f"{where}: no path")
    path = table.parent / text  # an absolute path stays as it is
    if not path.name.endswith(_SUFFIXES):
        raise InputError(f"{where}: {text} is not a .nii or .nii.gz file")
    if not path.is_file():
        raise InputError(f"{where}: no file {path}")
    return path


def read_scan_table(table: Path) -> Scans:
    """Reads a CSV file with the columns ``path``, ``age`` and perhaps ``site``.

    Relative paths are meant from the directory of the table. All rows are checked
    before any volume is read.

    Args:
      table: the CSV file, with a header.

    Raises:
      InputError: naming the row, for a missing column, file or age, or no rows.
    """
    paths, ages, sites, lines = [], [], [], []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = reader.fieldnames or []
            # The header, then row after row, so that errors have a line number.
            missing = [name for name in ("path", "age") if name not in columns]
            if missing:
                raise InputError(
                    f"{table} has no column {' and no column '.join(missing)}: a "
                    "table of scans has path, age and perhaps site"
                )
            for row in reader:
                where = f"{table}, line {reader.line_num}"
                paths.append(_scan(where, table, row["path"]))
                ages.append(_age(where, row["age"]))
                sites.append(row.get("site") or "")
                lines.append(reader.line_num)
    except OSError as error:
        raise InputError(f"cannot read {table}: {error.strerror}") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"{table} is not a CSV file in UTF-8 ({error})") from error
    if not paths:
        raise InputError(f"{table} has no rows")
    return Scans(
        table=table,
        paths=paths,
        ages=np.array(ages, np.float32),
        sites=sites if "site" in columns else None,
        lines=lines,
    )


def z_score(volume: np.ndarray) -> np.ndarray:
    """Standardises a volume to mean 0 and (population) deviation 1 over its voxels.

    The moments are computed in float64, the result is float32.

    Raises:
      ValueError: for NaN, infinity, or a volume that never varies.

    Example:
      >>> z_score(np.array([[[1.0, 3.0]]])).tolist()
      [[[-1.0, 1.0]]]
    """
    if not np.isfinite(volume).all():
        raise ValueError("the volume holds NaN or infinity")
    mean, std = volume.mean(dtype=np.float64), volume.std(dtype=np.float64)
    if std == 0:
        raise ValueError(f"all voxels are {volume.flat[0]}")
    return ((volume - mean) / std).astype(np.float32)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError as error:
        raise InputError(
            "NIfTI volumes need the package nibabel: install fedsparsify_jax[medical]"
        ) from error
    return nibabel


def read_volume(path: Path) -> np.ndarray:
    """Reads a scan as float32 ``[D, H, W]``, with the header's scaling applied.

    Raises:
      ValueError: if it is not three-dimensional, or larger than its file can hold.
    """
    image: Any = _nibabel().load(path)
    promised = math.prod(image.shape) * image.get_data_dtype().itemsize
    packed = path.suffix == ".gz"
    check_size(path.name, promised, path.stat().st_size, packed=packed)
    volume = np.asarray(image.dataobj, np.float32)
    if volume.ndim == 4 and volume.shape[3] == 1:
        volume = volume[..., 0]  # some tools write one point in time
    if volume.ndim != 3:
        raise ValueError(f"the volume has shape {volume.shape}, expected three axes")
    return volume


def _checked(scans: Scans, row: int) -> np.ndarray:
    try:
        return z_score(read_volume(scans.paths[row]))
    except Exception as error:  # nibabel and the decompressors raise many kinds
        raise InputError(f"{scans.where(row)}: {first_line(error)}") from error


def read_volumes(
    scans: Scans, storage: str = "float32", threads: int | None = None
) -> np.ndarray:
    """Reads and standardises all scans of a table, several at once.

    Args:
      scans: from `read_scan_table`.
      storage: ``"float32"`` or ``"float16"``.
      threads: how many; decompression runs outside Python's lock.

    Returns:
      ``[n, D, H, W, 1]``: one channel.

    Raises:
      InputError: naming the first row whose volume is unreadable, not finite, constant,
        or of another shape than the first.
    """
    if storage not in STORAGE:
        raise InputError(f"storage is {storage!r}: expected {' or '.join(STORAGE)}")
    first = _checked(scans, 0)
    volumes = np.empty((len(scans.paths), *first.shape, 1), storage)

    def read(row: int) -> None:
        volume = _checked(scans, row)
        if volume.shape != first.shape:
            raise InputError(
                f"{scans.where(row)}: the volume has shape {volume.shape}, the first "
                f"one {first.shape}: register them to one space first"
            )
        volumes[row, ..., 0] = volume

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(read, range(len(scans.paths))):
            pass  # raises what a thread raised, in the order of the rows
    return volumes


def load_brain_age(
    data_dir: Path | None = None,
    *,
    storage: str = "float32",
    client_column: str | None = None,
    train_subset: int | None = None,
    seed: int = 0,
) -> Dataset:
    """Loads scans and ages from ``train.csv`` and ``test.csv``; a regression task.

    Every scan is standardised by its own mean and deviation.

    Args:
      data_dir: directory with both tables; see `read_scan_table`.
      storage: dtype of the volumes in memory, ``"float32"`` or ``"float16"``.
      client_column: ``"site"``, to make natural clients of the sites.
      train_subset: read only so many training scans, drawn uniformly.
      seed: which ones.

    Returns:
      x ``[n, D, H, W, 1]`` and y ``[n]`` float32, in years.

    Raises:
      InputError: naming file and row, for anything missing, unreadable or unfit.

    References:
      Stripelis et al., Secure Federated Learning for Neuroimaging (arXiv 2208.11669).
    """
    if data_dir is None:
        raise InputError(
            "the data set 'brain_age' needs --data-dir with train.csv and test.csv "
            "(columns path, age and perhaps site)"
        )
    _nibabel()
    train = read_scan_table(data_dir / "train.csv")
    test = read_scan_table(data_dir / "test.csv")
    if train_subset is not None:
        train = train.take(random_rows(len(train.paths), train_subset, seed))
    owners = None if client_column is None else _owners(client_column, train, test)
    dataset = from_arrays(
        "brain_age",
        read_volumes(train, storage),
        train.ages,
        read_volumes(test, storage),
        test.ages,
        task="regression",
    )
    return dataset._replace(owners=owners)


def _owners(column: str, train: Scans, test: Scans) -> Owners:
    """Returns the sites that scans come from; of the test set if it names them."""
    if column != _SITE:
        raise InputError(f"--client-column is {column}: scans have {_SITE}")
    for row, name in enumerate(train.sites or [""]):
        if not name:
            raise InputError(f"{train.where(row)}: no {_SITE}")
    known = test.sites is not None and all(test.sites)
    sites = [*(train.sites or []), *((test.sites or []) if known else [])]
    names, owners = owners_of(str(train.table), {_SITE: sites})
    of_train, of_test = np.split(owners, [len(train.paths)])
    return Owners(names, of_train, of_test if known else None)
