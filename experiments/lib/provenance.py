"""Provenance of results: a line for every start, in ``provenance.json``.

The file lies in a sweep's directory or in the one above. Runs that were finished after
a start, and before the next one, are its work; so copy directories with their times
(``cp -a``).
"""

import json
import os
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

from fedsparsify_jax.runner.programs.devices import select
from fedsparsify_jax.runner.storage.run_directory import write_whole

ROOT = Path(__file__).resolve().parents[2]
_NAME = "provenance.json"
_NOWHERE = {"commit": None, "dirty": None, "machine": None}


def _output_of(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit() -> str | None:
    """Returns the commit that is checked out here; None outside a checkout."""
    return _output_of("git", "rev-parse", "--short=7", "HEAD")


def dirty() -> bool:
    """Returns whether the library differs from its commit."""
    return bool(_output_of("git", "status", "--porcelain", "--", "fedsparsify_jax"))


def machine() -> dict[str, Any]:
    """Returns processor, cores, Python, and the devices by JAX's name for them."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0].partition(":")[2].strip() if names else cpu
    devices = select(None)  # the sweep's own choice, which happens only once
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "python": platform.python_version(),
    }


def starts(directory: Path) -> list[dict[str, Any]]:
    """Returns all starts that a sweep's directory, or the one above, lists."""
    for place in (directory, directory.parent):
        if (place / _NAME).exists():
            return json.loads((place / _NAME).read_text(encoding="utf-8"))
    return []


def record(
    directory: Path, started: float | None = None, of: str | None = None
) -> None:
    """Adds a start to a directory's ``provenance.json``.

    Args:
      directory: a sweep's, or the one above; created if need be.
      started: seconds since the epoch, now by default.
      of: the commit that is run, this checkout's by default.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _NAME
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    now = {
        "started": round(time.time() if started is None else started),
        "commit": of or commit(),
        "dirty": dirty() if of is None else False,
        "machine": machine(),
    }
    write_whole(path, json.dumps([*before, now], indent=2) + "\n")


def of_run(directory: Path) -> dict[str, Any]:
    """Returns commit, state of the checkout and machine of a finished run."""
    finished = (directory / "summary.json").stat().st_mtime
    before = [s for s in starts(directory.parent) if s["started"] <= finished + 1]
    if not before:
        return dict(_NOWHERE)
    latest = max(before, key=lambda start: start["started"])
    return {field: latest[field] for field in _NOWHERE}
