"""Tables in the format of the Hugging Face hub, from the hub or from local files.

Everything goes through the optional package ``datasets``, imported only when used. It
keeps an Arrow copy of what it reads in its cache (``HF_HOME``).
"""

import contextlib
import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError

Splits = dict[str, Any]
"""Split name (``train``, ``test``, ``validation``) to a ``datasets.Dataset``."""

_READERS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}
_FILE = re.compile(r"(train|test|validation|valid|val|dev)(?=$|[-_.])")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})$")
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(
    ("validation", "valid", "val", "dev"), "validation"
)


def first_line(error: BaseException) -> str:
    """Returns the message of an exception's deepest cause, cut to one line.

    >>> first_line(ValueError("bad number\\nin a long story"))
    'bad number'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def import_datasets(what: str) -> Any:
    """Imports the package ``datasets``.

    Raises:
      InputError: if it is not installed; ``what`` is what needs it.
    """
    try:
        import datasets
    except ImportError as error:
        raise InputError(
            f"{what} needs the package datasets: install fedsparsify_jax[hub]"
        ) from error
    return datasets


@contextlib.contextmanager
def _without_progress_bars(datasets: Any) -> Iterator[None]:
    """Hides progress bars, which are for downloads, while a local file is read."""
    enabled = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if enabled:
            datasets.enable_progress_bars()


def _split_of(directory: Path, path: Path) -> str | None:
    """Returns ``train`` for ``train-00000-of-00001.parquet`` or ``train/0.parquet``."""
    match = _FILE.match(path.stem)
    if match:
        return _SPLITS[match[1]]
    # Folders inside the directory only: its own name says nothing about its files.
    return _SPLITS.get(path.relative_to(directory).parent.name)


def _check_one_source(directory: Path, split: str, paths: list[Path]) -> None:
    """Refuses files of a split that are not all the shards of one table."""
    kinds = {path.suffix for path in paths}
    folders = {path.parent for path in paths}
    if len(kinds) > 1 or len(folders) > 1:
        raise InputError(
            f"{directory} holds several candidates for {split} ("
            + ", ".join(str(path.relative_to(directory)) for path in paths[:4])
            + "): name the directory of one with --data-dir"
        )
    shards = [_SHARD.search(path.stem) for path in paths]
    totals = {int(shard[1]) for shard in shards if shard}
    if totals and totals != {len(paths)}:
        raise InputError(
            f"{directory} holds {len(paths)} of {max(totals)} files of the {split} "
            "split: fetch the others too"
        )


def local_files(
    directory: Path, suffixes: tuple[str, ...] = (".parquet",)
) -> dict[str, list[Path]]:
    """Lists the files of each split below a directory, by their names.

    Args:
      directory: where to look, subdirectories included.
      suffixes: of ``.parquet``, ``.jsonl`` and ``.csv``, those to look for.

    Raises:
      InputError: if the directory does not exist, holds more than one candidate for a
        split, or lacks shards.
    """
    if not directory.is_dir():
        raise InputError(f"no directory {directory}")
    files: dict[str, list[Path]] = {}
    for path in sorted(directory.rglob("*")):
        split = _split_of(directory, path)
        if split and path.suffix in suffixes and path.is_file():
            files.setdefault(split, []).append(path)
    for split, paths in files.items():
        _check_one_source(directory, split, paths)
    return files


def _check_parquet(path: Path) -> None:
    """Refuses truncated downloads: a parquet file begins and ends with ``PAR1``."""
    try:
        contents = path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    with contents as file:
        begins = file.read(4) == b"PAR1"
        file.seek(max(0, path.stat().st_size - 4))
        ends = file.read(4) == b"PAR1"
    if not (begins and ends):
        raise InputError(
            f"{path} is truncated or not a parquet file: fetch the file again"
        )


def open_files(what: str, files: dict[str, list[Path]]) -> Splits:
    """Opens local files as tables.

    Args:
      what: the data set, for errors.
      files: from `local_files`.

    Raises:
      InputError: if ``datasets`` is missing, or a file is damaged.
    """
    datasets = import_datasets(what)
    tables: Splits = {}
    for split, paths in files.items():
        kind = _READERS[paths[0].suffix]
        for path in paths:
            if kind == "parquet":
                _check_parquet(path)
        # The reader takes patterns, and a directory may well be called "run[1]".
        patterns = [glob.escape(str(path.absolute())) for path in paths]
        try:
            with _without_progress_bars(datasets):
                opened = datasets.load_dataset(kind, data_files={split: patterns})
            tables[split] = opened[split]
        except Exception as error:  # pyarrow, pandas and datasets raise many kinds
            names = ", ".join(map(str, paths))
            raise InputError(f"cannot read {names}: {first_line(error)}") from error
    return tables


def open_hub(what: str, name: str, advice: str, config: str | None = None) -> Splits:
    """Opens a data set of the hub, downloading it unless it is in the cache.

    Args:
      what: the data set, for errors.
      name: ``owner/name`` on the hub.
      advice: what to do when it cannot be had.
      config: configuration ("subset") where the data set has several.

    Raises:
      InputError: if ``datasets`` is missing, or the hub does not hand it over.
    """
    datasets = import_datasets(f"{what}, to be loaded from the Hugging Face hub,")
    try:
        return dict(datasets.load_dataset(name, config))
    except Exception as error:  # the hub's client raises many kinds
        raise InputError(
            f"{what} is not to be had from the Hugging Face hub as {name} "
            f"({first_line(error)}): {advice}"
        ) from error


def require_split(what: str, splits: Splits, *names: str) -> Any:
    """Returns the first of the splits that exists.

    Raises:
      InputError: if none does, or it is empty.
    """
    for name in names:
        if name in splits:
            if len(splits[name]) == 0:
                raise InputError(f"the {name} split of {what} is empty")
            return splits[name]
    has = ", ".join(splits) or "none"
    raise InputError(f"{what} has no {' or '.join(names)} split: it has {has}")


def require_column(where: str, table: Any, name: str) -> None:
    """Raises `InputError` unless the table has the column."""
    if name not in table.column_names:
        raise InputError(
            f"{where} has no column {name!r}: it has {', '.join(table.column_names)}"
        )
