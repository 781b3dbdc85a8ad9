"""``fedsparsify report``: reads runs and writes their report.

The command line imports this module, so the packages of the extra wait for their use.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.options.schema import POSITIONAL, Shown, check


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """Write a report of runs and sweeps: curves, tables, and what differs.

    One HTML page that needs no network, in report.html; or Markdown, or figures.
    """

    paths: Annotated[
        tuple[Path, ...], POSITIONAL, Shown("RUN_OR_SWEEP...", hint="at least one")
    ] = ()
    """Directories of runs and sweeps."""
    format: Literal["html", "markdown", "svg", "png"] = "html"
    """One page that needs no network, Markdown with figures, or figures alone."""
    out: Annotated[
        Path | None, Shown("PATH", hint="default: report.html or report")
    ] = None
    """The page to write; for other formats the directory."""
    title: Annotated[str | None, Shown("TEXT", hint="default: the names")] = None
    """Title of the report."""


def _check_packages() -> None:
    try:
        import jinja2  # noqa: F401
        import pandas  # noqa: F401
        import PIL  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"report needs {error.name}: pip install 'fedsparsify_jax[report]'"
        ) from None


def _check_page(path: Path) -> None:
    """Refuses to write over anything but pages of this command."""
    from fedsparsify_jax.report.page import MARK

    if path.is_dir():
        raise InputError(
            f"--out {path} is a directory: name a file such as report.html"
        )
    if not path.exists():
        return
    with path.open("rb") as file:
        start = file.read(1000)
    if MARK.encode() not in start:
        raise InputError(f"--out {path} is there already and no report: name another")


def _check_directory(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"--out {path} is a file: name a directory")


def report(config: ReportConfig) -> Path:
    """Reads runs and sweeps in whatever state they are, and writes their report.

    Args:
      config: the paths to read and the file or directory to write.

    Returns:
      The file or directory that was written.

    Raises:
      InputError: one line that says what is wrong: a path that is no run, a file in
        the way, a directory that cannot be written, a package that is missing.
    """
    if not config.paths:
        raise InputError("report needs the directory of a run or of a sweep")
    config = dataclasses.replace(config, **check(config))
    is_page = config.format == "html"
    out = config.out or Path("report.html" if is_page else "report")
    _check_packages()
    (_check_page if is_page else _check_directory)(out)
    from fedsparsify_jax.report.content import compose
    from fedsparsify_jax.report.reading import read
    from fedsparsify_jax.report.writing import write

    runs = read(config.paths)
    names = ", ".join(path.resolve().name for path in config.paths)
    title = names if len(config.paths) <= 3 else f"{len(runs)} runs"
    content = compose(runs, config.title or title)
    try:
        written = write(content, config.format, out)
    except OSError as error:
        raise InputError(
            f"cannot write --out {out}: {error.strerror}; name one that can be written"
        ) from error
    missing = sum(bool(run.missing) for run in runs)
    remark = f", {missing} of them with something missing" if missing else ""
    print(f"report of {len(runs)} run{'s' * (len(runs) != 1)}{remark}: {written}")
    return out
