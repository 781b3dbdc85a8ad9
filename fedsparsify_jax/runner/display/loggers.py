"""Other places that rounds are written to: CSV, TensorBoard, Weights & Biases.

``metrics.jsonl`` is what counts. A logger that fails is let go with a warning, and one
that starts late, or again, is told of all rounds so far: nothing is there twice.
"""

import contextlib
import csv
import importlib.util
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console

from fedsparsify_jax.errors import InputError, unknown

Record = dict[str, Any]


class Logger(Protocol):
    """Told of rounds, in order."""

    def start(self, records: Sequence[Record]) -> None:
        """Begins anew, with the rounds that were played before."""

    def round(self, record: Record) -> None:
        """Writes a record of ``metrics.jsonl``."""

    def close(self) -> None:
        """Ends."""


def scalars(record: Record) -> dict[str, float | int | None]:
    """A record without levels: what is kept of a tensor is named for it.

    >>> scalars({"round": 1, "kept": {"params/a": 3}})
    {'round': 1, 'kept/params/a': 3}
    """
    flat = {name: value for name, value in record.items() if name != "kept"}
    return flat | {f"kept/{name}": n for name, n in record.get("kept", {}).items()}


class _Csv:
    """``metrics.csv``: a column a quantity, empty where there was no evaluation."""

    def __init__(self, run: Path, options: dict[str, Any]):
        self._path = run / "metrics.csv"

    def start(self, records: Sequence[Record]) -> None:
        self._path.unlink(missing_ok=True)
        self._write(records)

    def round(self, record: Record) -> None:
        self._write([record])

    def _write(self, records: Sequence[Record]) -> None:
        rows = [scalars(record) for record in records]
        if not rows:
            return
        head = not self._path.exists()
        with self._path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            if head:
                writer.writeheader()
            writer.writerows(rows)

    def close(self) -> None:
        pass


class _TensorBoard:
    """Event files in ``tensorboard/``, made anew when a run is resumed."""

    def __init__(self, run: Path, options: dict[str, Any]):
        self._path = run / "tensorboard"

    def start(self, records: Sequence[Record]) -> None:
        from tensorboardX import SummaryWriter

        for old in self._path.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = SummaryWriter(str(self._path))
        for record in records:
            self.round(record)

    def round(self, record: Record) -> None:
        for name, value in scalars(record).items():
            if name != "round" and value is not None:
                self._writer.add_scalar(name, value, record["round"])

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    """A run of Weights & Biases with one name for good, kept in ``wandb/``.

    Offline (``WANDB_MODE=offline``) a resumed run is written whole in a new directory
    and the old ones are removed; online the service passes over rounds that it has.
    """

    def __init__(self, run: Path, options: dict[str, Any]):
        self._run_path, self._options = run, options

    def _name(self, folder: Path) -> str:
        path = folder / "run-id.txt"
        if not path.exists():
            path.write_text(uuid.uuid4().hex[:8] + "\n", encoding="utf-8")
        return path.read_text(encoding="utf-8").strip()

    def start(self, records: Sequence[Record]) -> None:
        import wandb

        folder = self._run_path / "wandb"
        folder.mkdir(exist_ok=True)
        name = self._name(folder)
        for old in folder.glob(f"offline-run-*-{name}"):
            shutil.rmtree(old)
        self._run = wandb.init(
            project="fedsparsify",
            dir=str(self._run_path),
            id=name,
            name=self._run_path.resolve().name,
            resume="allow",
            config=self._options,
            settings=wandb.Settings(silent=True, console="off"),
        )
        for record in records:
            self.round(record)

    def round(self, record: Record) -> None:
        found = {k: v for k, v in scalars(record).items() if v is not None}
        self._run.log(found, step=record["round"])

    def close(self) -> None:
        self._run.finish()


# By name: what writes, the package it needs, and the extra that has it.
_LOGGERS: dict[str, tuple[Callable[[Path, dict[str, Any]], Logger], str, str]] = {
    "csv": (_Csv, "", ""),
    "tensorboard": (_TensorBoard, "tensorboardX", "tensorboard"),
    "wandb": (_Wandb, "wandb", "wandb"),
}

LOGGERS = tuple(_LOGGERS)


def check(names: Sequence[str]) -> None:
    """Complains of loggers that cannot be, before anything is trained.

    Raises:
      InputError: for an unknown name, or a package that is not installed.
    """
    for name in names:
        if name not in _LOGGERS:
            raise unknown("logger", name, LOGGERS)
        _, package, extra = _LOGGERS[name]
        if package and importlib.util.find_spec(package) is None:
            raise InputError(
                f"--logger {name} needs {package}: "
                f"pip install 'fedsparsify_jax[{extra}]'"
            )


class _Guarded:
    """Loggers whose failure costs their log and not the run."""

    def __init__(self, loggers: dict[str, Logger], console: Console):
        self._loggers, self._console = loggers, console

    def tell(self, what: Callable[[Logger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                what(logger)
            except Exception as error:  # whatever it is, the rounds are safe
                del self._loggers[name]
                said = str(error).splitlines()[0] if str(error) else ""
                self._console.print(
                    f"warning: the logger {name} failed and is off: "
                    f"{said or type(error).__name__}; metrics.jsonl has every round",
                    soft_wrap=True,
                    markup=False,
                )


@contextlib.contextmanager
def logging(
    names: Sequence[str],
    run: Path,
    options: dict[str, Any],
    records: Sequence[Record],
    console: Console,
) -> Iterator[Callable[[Record], None]]:
    """Loggers around the rounds of a run.

    Args:
      names: of loggers, as checked.
      run: its directory.
      options: the configuration, as JSON values.
      records: the rounds that were played before.
      console: where warnings go.

    Yields:
      What is to be called with the record of every further round.
    """
    made = {name: _LOGGERS[name][0](run, options) for name in dict.fromkeys(names)}
    guarded = _Guarded(made, console)
    guarded.tell(lambda logger: logger.start(records))
    try:
        yield lambda record: guarded.tell(lambda logger: logger.round(record))
    finally:
        guarded.tell(lambda logger: logger.close())
