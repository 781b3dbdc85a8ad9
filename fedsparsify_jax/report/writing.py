"""Writing of reports: a page, Markdown with figures, or figures alone."""

from pathlib import Path

from fedsparsify_jax.report import png, svg
from fedsparsify_jax.report.content import Report
from fedsparsify_jax.report.markdown import file_names, markdown
from fedsparsify_jax.report.page import page
from fedsparsify_jax.runner.storage.run_directory import write_whole


def _write_figures(report: Report, folder: Path, ending: str) -> int:
    """Writes every figure as a file; returns their count."""
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names(report.figures)
    for figure in report.figures:
        path = folder / f"{names[id(figure)]}.{ending}"
        if ending == "png":
            png.write_png(figure, path)
        else:
            path.write_text(svg.document(figure), encoding="utf-8")
    return len(report.figures)


def write(report: Report, form: str, out: Path) -> str:
    """Writes a report in one of the formats; returns its description."""
    if form == "html":
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, page(report))
        return f"{out} ({out.stat().st_size / 1e6:.2f} MB)"
    if form == "markdown":
        count = _write_figures(report, out / "figures", "svg")
        write_whole(out / "report.md", markdown(report))
        return f"{out / 'report.md'} and {count} figures"
    return f"{_write_figures(report, out, form)} figures in {out}"
