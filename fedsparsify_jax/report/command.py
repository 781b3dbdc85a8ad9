"""``fedsparsify report``: reads runs and writes what there is to say about them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.report import png, svg
from fedsparsify_jax.report.content import Report, compose
from fedsparsify_jax.report.markdown import figures_of, file_names, markdown
from fedsparsify_jax.report.page import MARK, page
from fedsparsify_jax.report.reading import Run, read
from fedsparsify_jax.runner.options.schema import POSITIONAL, Shown, check
from fedsparsify_jax.runner.storage.run_directory import write_whole


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


def _title(paths: tuple[Path, ...], runs: list[Run]) -> str:
    names = [path.resolve().name for path in paths]
    return ", ".join(names) if len(names) <= 3 else f"{len(runs)} runs"


def _check_page(path: Path) -> None:
    """Only pages of this command are written over."""
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


def _write_figures(report: Report, folder: Path, ending: str) -> int:
    """Writes every figure as a file; returns how many."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = figures_of(report)
    names = file_names(figures)
    for figure in figures:
        path = folder / f"{names[id(figure)]}.{ending}"
        if ending == "png":
            png.write_png(figure, path)
        else:
            path.write_text(svg.document(figure), encoding="utf-8")
    return len(figures)


def _write(report: Report, form: str, out: Path) -> str:
    """Writes a report; returns what was written, for people."""
    if form == "html":
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page(report))
        return f"{out} ({out.stat().st_size / 1e6:.2f} MB)"
    if form == "markdown":
        count = _write_figures(report, out / "figures", "svg")
        write_whole(out / "report.md", markdown(report))
        return f"{out / 'report.md'} and {count} figures"
    return f"{_write_figures(report, out, form)} figures in {out}"


def report(config: ReportConfig) -> Path:
    """Reads runs and sweeps in whatever state they are, and writes their report.

    Args:
      config: what to read and what to write.

    Returns:
      The file or directory that was written.

    Raises:
      InputError: one line that says what is wrong: a path that is no run, a file in
        the way, a directory that cannot be written.
    """
    if not config.paths:
        raise InputError("report needs the directory of a run or of a sweep")
    config = dataclasses.replace(config, **check(config))
    is_page = config.format == "html"
    out = config.out or Path("report.html" if is_page else "report")
    (_check_page if is_page else _check_directory)(out)
    if config.format == "png":
        png.check()
    runs = read(config.paths)
    said = compose(runs, config.title or _title(config.paths, runs))
    try:
        written = _write(said, config.format, out)
    except OSError as error:
        raise InputError(
            f"cannot write --out {out}: {error.strerror}; name one that can be written"
        ) from error
    missing = sum(bool(run.missing) for run in runs)
    noted = f", {missing} of them with something missing" if missing else ""
    print(f"report of {len(runs)} run{'s' * (len(runs) != 1)}{noted}: {written}")
    return out
