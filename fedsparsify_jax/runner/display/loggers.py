"""Other places that rounds are written to: CSV, TensorBoard, Weights & Biases.

``metrics.jsonl`` is what counts. A logger that fails is disabled with a warning. One
that starts late, or again, is given all rounds so far: no round is there twice.
"""

import contextlib
import csv
import importlib.util
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from fedsparsify_jax.errors import InputError

Record = dict[str, Any]
Write = Callable[[Record], None]


def scalars(record: Record) -> dict[str, float | int | None]:
    """Returns a record without levels: what is kept of a tensor is named for it.

    >>> scalars({"round": 1, "kept": {"params/a": 3}})
    {'round': 1, 'kept/params/a': 3}
    """
    flat = {name: value for name, value in record.items() if name != "kept"}
    return flat | {f"kept/{name}": n for name, n in record.get("kept", {}).items()}


@contextlib.contextmanager
def _csv(run: Path, options: dict[str, Any]) -> Iterator[Write]:
    """Writes ``metrics.csv``: an empty field where there was no evaluation."""
    path = run / "metrics.csv"
    path.unlink(missing_ok=True)

    def write(record: Record) -> None:
        row = scalars(record)
        new = not path.exists()
        with path.open("a", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)

    yield write


@contextlib.contextmanager
def _tensorboard(run: Path, options: dict[str, Any]) -> Iterator[Write]:
    """Writes event files in ``tensorboard/``, anew when a run is resumed."""
    from tensorboardX import SummaryWriter

    path = run / "tensorboard"
    for old in path.glob("events.out.tfevents.*"):
        old.unlink()
    with SummaryWriter(str(path)) as writer:

        def write(record: Record) -> None:
            for name, value in scalars(record).items():
                if name != "round" and value is not None:
                    writer.add_scalar(name, value, record["round"])

        yield write


@contextlib.contextmanager
def _wandb(run: Path, options: dict[str, Any]) -> Iterator[Write]:
    """Writes a run of Weights & Biases; its identifier is kept in ``wandb/``.

    Offline (``WANDB_MODE=offline``) a resumed run is written whole in a new directory
    and the old ones are removed; online the service passes over rounds that it has.
    """
    import wandb

    folder = run / "wandb"
    folder.mkdir(exist_ok=True)
    identifier = folder / "run-id.txt"
    if not identifier.exists():
        identifier.write_text(uuid.uuid4().hex[:8] + "\n", encoding="utf-8")
    name = identifier.read_text(encoding="utf-8").strip()
    for old in folder.glob(f"offline-run-*-{name}"):
        shutil.rmtree(old)
    logged = wandb.init(
        project="fedsparsify",
        dir=str(run),
        id=name,
        name=run.resolve().name,
        resume="allow",
        config=options,
        settings=wandb.Settings(silent=True, console="off"),
    )

    def write(record: Record) -> None:
        values = {k: v for k, v in scalars(record).items() if v is not None}
        logged.log(values, step=record["round"])

    try:
        yield write
    finally:
        logged.finish()


class _Logger(NamedTuple):
    """A kind of logger, and the package and the extra that it needs."""

    open: Callable[..., contextlib.AbstractContextManager[Write]]
    package: str = ""
    extra: str = ""


_LOGGERS = {
    "csv": _Logger(_csv),
    "tensorboard": _Logger(_tensorboard, package="tensorboardX", extra="tensorboard"),
    "wandb": _Logger(_wandb, package="wandb", extra="wandb"),
}


def check(names: Sequence[str]) -> None:
    """Complains of loggers that cannot be, before anything is trained.

    Raises:
      InputError: for a package that is not installed.
    """
    for name in names:
        needed = _LOGGERS[name]
        if needed.package and importlib.util.find_spec(needed.package) is None:
            raise InputError(
                f"--logger {name} needs {needed.package}: "
                f"pip install 'fedsparsify_jax[{needed.extra}]'"
            )


@contextlib.contextmanager
def logging(
    names: Sequence[str],
    run: Path,
    options: dict[str, Any],
    records: Sequence[Record],
    console: Console,
) -> Iterator[Write]:
    """Opens loggers around the rounds of a run; their failure costs no round.

    Args:
      names: of loggers, as checked.
      run: its directory.
      options: the configuration, as JSON values.
      records: of the rounds that were run before.
      console: where warnings go.

    Yields:
      What is to be called with the record of every further round.
    """
    stacks = {name: contextlib.ExitStack() for name in names}
    writers: dict[str, Write] = {}

    def start(name: str) -> None:
        writers[name] = stacks[name].enter_context(_LOGGERS[name].open(run, options))
        for record in records:
            writers[name](record)

    def attempt(act: Callable[[str], None]) -> None:
        for name in list(stacks):
            try:
                act(name)
            except Exception as error:  # whatever it is, the rounds are safe
                with contextlib.suppress(Exception):
                    stacks.pop(name).close()
                reason = str(error).splitlines()[0] if str(error) else ""
                console.print(
                    f"warning: the logger {name} failed and is off: "
                    f"{reason or type(error).__name__}; metrics.jsonl has every round",
                    soft_wrap=True,
                    markup=False,
                )

    attempt(start)
    try:
        yield lambda record: attempt(lambda name: writers[name](record))
    finally:
        attempt(lambda name: stacks[name].close())
