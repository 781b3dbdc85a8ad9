"""The page of an audit: its figures as Markdown, and its ROC curves as a chart."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fedsparsify_jax import text_table
from fedsparsify_jax.deploy import files
from fedsparsify_jax.report.charts import Chart, Series, thinned
from fedsparsify_jax.report.svg import document
from fedsparsify_jax.runner.audit.command import CURVES, FIGURE, PAGE, RESULTS
from fedsparsify_jax.runner.audit.figures import rows
from fedsparsify_jax.text_table import plain

_POINTS = 200


def write_page(out: Path) -> Path:
    """Writes the page of an audit whose results are in a directory.

    Args:
      out: with ``audit.json`` and ``roc.npz``.

    Returns:
      The page.

    Raises:
      InputError: if it cannot be written.
    """
    content = json.loads((out / RESULTS).read_text(encoding="utf-8"))
    with np.load(io.BytesIO((out / CURVES).read_bytes()), allow_pickle=False) as arrays:
        curves = {
            name: (arrays[f"{name}/fpr"], arrays[f"{name}/tpr"])
            for name in content["attacks"]
        }
    figure = document(_chart(curves), _small(curves))
    files.write(out / FIGURE, figure.encode())
    files.write(out / PAGE, _markdown(content).encode())
    return out / PAGE


Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By attack: FPR and TPR, ``[u]`` each."""


def _chart(curves: Curves) -> Chart:
    """Returns the curves over all rates, with the line of an attacker who guesses."""
    guess = Series("guess", 7, [(0.0, 0.0), (1.0, 1.0)], dashed=True)
    series = [
        thinned(
            Series(name, tone, list(zip(fpr.tolist(), tpr.tolist(), strict=True))),
            _POINTS,
        )
        for tone, (name, (fpr, tpr)) in enumerate(curves.items())
    ]
    return Chart("ROC", "FPR", "TPR", (*series, guess), "percent", "percent")


def _small(curves: Curves) -> Chart:
    """Returns the curves over powers of ten, which show rates near zero.

    They begin with the first of the others: below its share there are no rates but 0.
    """
    lowest = min(float(fpr[fpr > 0][0]) for fpr, _ in curves.values())

    def line(name: str, tone: int, fpr: np.ndarray, tpr: np.ndarray) -> Series:
        grid = np.geomspace(fpr[fpr > 0][0], 1, _POINTS)
        reached = tpr[np.searchsorted(fpr, grid * (1 + 1e-9), side="right") - 1]
        shown = np.log10(np.maximum(reached, lowest))
        points = zip(np.log10(grid).tolist(), shown.tolist(), strict=True)
        return Series(name, tone, list(points))

    series = [
        line(name, tone, fpr, tpr)
        for tone, (name, (fpr, tpr)) in enumerate(curves.items())
    ]
    corner = float(np.log10(lowest))
    guess = Series("guess", 7, [(corner, corner), (0.0, 0.0)], dashed=True)
    title = "The same, logarithms"
    return Chart(title, "log10 FPR", "log10 TPR", (*series, guess), "number")


def _markdown(content: Mapping[str, Any]) -> str:
    """Returns the text of the page."""
    head, body = rows(content["attacks"])
    threat = "an outsider, who has the final model"
    if content["threat"] == "server":
        threat = f"a curious server, which has an upload of client {content['client']}"
    lines = [
        f"# Membership inference against {plain(content['run'])}\n",
        f"{plain(content['algorithm'])} on {plain(content['dataset'])}; attacked by "
        f"{threat}. Brackets are 95 % bootstrap intervals over examples.\n",
        text_table.markdown(
            [plain(h) for h in head], [list(map(plain, r)) for r in body]
        )
        + "\n",
        f"![ROC curves]({FIGURE})\n",
        *(f"* {plain(note)}" for note in content["notes"]),
        *(
            f"* {plain(name)}: {plain(attack['about'])}; {attack['members']:,} "
            f"members, {attack['others']:,} others"
            for name, attack in content["attacks"].items()
        ),
        *_of_shadows(content),
        f"* seed {content['seed']}, commit {content['commit'] or 'unknown'}"
        f"{' with changes' if content['dirty'] else ''}, "
        f"jax {content['versions']['jax']}",
    ]
    return "\n".join(lines) + "\n"


def _of_shadows(content: Mapping[str, Any]) -> list[str]:
    """Returns a line about shadow models, if there are any."""
    if "shadows" not in content:
        return []
    shadows = content["shadows"]
    return [
        f"* {shadows['number']} shadow models of {shadows['examples']:,} examples "
        f"each; the model attacked has seen {content['pool']['members']:,}"
    ]
