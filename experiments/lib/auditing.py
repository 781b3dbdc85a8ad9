"""Audits of a table's runs: ``fedsparsify audit`` beside every finished run of it."""

import contextlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.lib.table import Options
from fedsparsify_jax.runner.audit.command import RESULTS, audit
from fedsparsify_jax.runner.audit.options import AuditConfig

MEASURES = ("auc", "advantage", "tpr")
"""What a line keeps of every attack."""


def _there(run: Path, options: Options) -> dict[str, Any] | None:
    """Returns the audit of a run by these options, None if there is none."""
    path = run / "audit" / RESULTS
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    same = all(content["options"].get(key) == value for key, value in options.items())
    return content if same else None


def measures(run: Path, options: Options) -> dict[str, Any] | None:
    """Returns what a line says of a run's audit: attack to measures with intervals.

    Args:
      run: its directory.
      options: of the audit; another one's figures do not count.

    Returns:
      None if there is no such audit.
    """
    content = _there(run, options)
    if content is None:
        return None
    return {
        name: {measure: attack[measure] for measure in MEASURES}
        for name, attack in content["attacks"].items()
    }


def audit_all(
    runs: Sequence[Path], options: Options, console: Console, data_dir: Path | None
) -> None:
    """Audits finished runs, those that lack it; an interrupted audit goes on.

    Args:
      runs: their directories.
      options: of ``fedsparsify audit``.
      console: a line a run goes there.
      data_dir: where the data set is, if it is not where the runs found it.

    Raises:
      InputError: from the audit.
    """
    for run in runs:
        if _there(run, options) is None:
            console.print(f"auditing {run.name}", markup=False)
            config = AuditConfig(run=(run,), data_dir=data_dir, **options)
            with contextlib.redirect_stdout(io.StringIO()):
                audit(config)
