"""Results as SVG figures, the same bytes for the same results."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments.lib.panels import Panel
from experiments.lib.results import Results, rounds_of
from fedsparsify_jax.errors import InputError

try:
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
except ImportError:  # pragma: no cover
    raise InputError("figures need matplotlib: pip install '.[experiments]'") from None

_STYLE = {
    "svg.hashsalt": "fedsparsify_jax",  # names of clip paths
    "svg.fonttype": "none",  # text as text: small, and selectable
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.3,
}
_COLORS = matplotlib.color_sequences["tab10"]
_MARKERS = "osD^vPX<>*hp"
WINDOW = 10
"""Rounds in a moving mean."""


def _svg(figure: Figure) -> str:
    text = io.StringIO()
    FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None, "Creator": None})
    lines = text.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _look(results: Results, row: str) -> dict[str, Any]:
    """Colour, line and marker of a row: the same in every figure of a table."""
    number = [every.key for every in results.table.rows].index(row)
    dashes = ["-", "--"][results.dense(row)]
    marker = _MARKERS[number % len(_MARKERS)]
    return {
        "color": _COLORS[number % len(_COLORS)],
        "linestyle": ":" if number >= len(_COLORS) else dashes,
        "marker": marker,
        "markersize": 3.5,
        "label": results.label(row),
    }


def _what(results: Results) -> str:
    return "test accuracy, %" if results.metric == "accuracy" else "test error, years"


def _panels(results: Results, up: str) -> tuple[Figure, list[tuple[Panel, Any]]]:
    """A figure with axes for every panel."""
    panels = results.panels
    size = (4.0 * max(2, len(panels)), 3.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
    for panel, ax in zip(panels, axes, strict=True):
        ax.set_title(panel.title)
    axes[0].set_ylabel(up)
    return figure, list(zip(panels, axes, strict=True))


def _finish(figure: Figure, axes: Iterable[Any], across: str) -> str:
    handles: dict[str, Any] = {}
    for ax in axes:
        ax.set_xlabel(across)
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(
            list(handles.values()), list(handles), loc="outside right", frameon=False
        )
    return _svg(figure)


def accuracy_sparsity(results: Results, measure: str = "last_10") -> str:
    """Accuracy against final sparsity: means and standard deviations over seeds."""
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(results, _what(results))
        sparsities = results.axis("final_sparsity")
        places = range(len(sparsities))
        for panel, ax in panels:
            for row in results.rows:
                found = [
                    list(
                        results.values(
                            row, measure, **panel.point, final_sparsity=s
                        ).values()
                    )
                    for s in sparsities
                ]
                there = [n for n in places if found[n]]
                if not there:
                    continue
                means = [results.scale * np.mean(found[n]) for n in there]
                errors = [
                    results.scale * np.std(found[n], ddof=1)
                    if len(found[n]) > 1
                    else 0.0
                    for n in there
                ]
                ax.errorbar(there, means, yerr=errors, capsize=2, **_look(results, row))
            ax.set_xticks(places, [f"{100 * s:.0f} %" for s in sparsities])
        return _finish(figure, [ax for _, ax in panels], "final sparsity")


def smooth(values: Sequence[float], window: int = WINDOW) -> np.ndarray:
    """The mean of each value and those before it, ``window`` at most.

    >>> smooth([1.0, 3.0, 5.0], window=2)
    array([1., 2., 4.])
    """
    every = np.asarray(values, float)
    parts = [every[max(0, end - window) : end] for end in range(1, len(every) + 1)]
    # Rounds that were not evaluated are left out.
    known = [part[~np.isnan(part)] for part in parts]
    return np.array([part.mean() if part.size else np.nan for part in known])


def accuracy_over(results: Results, final_sparsity: float, across: str) -> str:
    """Accuracy against rounds or megabytes: moving means over ten rounds and seeds.

    Args:
      results: of the table.
      final_sparsity: of the sparse methods.
      across: ``"rounds"`` or ``"bytes"``.
    """
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(results, _what(results))
        for panel, ax in panels:
            for row in results.rows:
                point = {**panel.point, "final_sparsity": final_sparsity}
                cells = results.cells(row, **point)
                if not cells:
                    continue
                rounds = rounds_of(next(iter(cells.values())))
                every = results.scale * smooth(
                    results.curve(row, results.metric, **point)
                )
                x: Any = rounds
                if across == "bytes":
                    x = np.array(results.curve(row, "bytes", **point)) / 1e6
                look = _look(results, row) | {"markevery": 8}
                ax.plot(x, every[np.array(rounds) - 1], **look)
        label = "round" if across == "rounds" else "megabytes moved, both ways"
        return _finish(figure, [ax for _, ax in panels], label)


def layers(results: Results, rows: Sequence[str], final_sparsity: float) -> str:
    """What share of every layer is left, over the rounds of one run a row.

    Layers go by colour, rows by line. What a layer keeps in round 1 counts as all of
    it, which holds for methods that start dense.
    """
    styles = ["-", "--", ":", "-."]
    with matplotlib.rc_context(_STYLE):
        figure, panels = _panels(results, "kept of the layer, %")
        for panel, ax in panels:
            for row, style in zip(rows, styles, strict=False):
                point = {**panel.point, "final_sparsity": final_sparsity}
                cells = results.cells(row, **point)
                lines = [c for c in cells.values() if "layers" in c["curves"]]
                for line in lines[:1]:
                    _layers(ax, line, results.label(row), style)
            ax.set_yscale("log")
        return _finish(figure, [ax for _, ax in panels], "round")


def _layers(ax: Any, line: dict[str, Any], label: str, style: str) -> None:
    rounds = rounds_of(line)
    kernels = [name for name in line["curves"]["layers"] if name.endswith("kernel")]
    for number, name in enumerate(kernels):
        kept = np.array(line["curves"]["layers"][name], float)
        ax.plot(
            rounds,
            100 * kept / line["curves"]["layers_first"][name],
            color=_COLORS[number],
            linestyle=style,
            label=f"{label}, {name.split('/')[-2]}",
        )


Curves = Mapping[str, tuple[Sequence[float], Any]]
"""Labels to points: all of x, all of y."""


def lines(panels: Sequence[tuple[str, Curves]], across: str, up: str) -> str:
    """Plain curves, a panel a title."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.0, 3.2), layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(panels), sharey=True))
        for (title, curves), ax in zip(panels, axes, strict=True):
            ax.set_title(title)
            for number, (label, (x, y)) in enumerate(curves.items()):
                ax.plot(x, y, color=_COLORS[number], label=label)
        axes[0].set_ylabel(up)
        return _finish(figure, axes, across)
