"""What the benchmarks share: provenance, result files, other projects' environments."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("FEDSPARSIFY_BENCHMARKS", "/tmp/fedsparsify-benchmarks"))
"""Where isolated environments are kept between runs."""


def _said(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT
    )
    return done.stdout.strip()


def provenance() -> dict[str, Any]:
    """Commit, versions and machine: what a figure needs beside it."""
    cpu = _said("sh", "-c", "grep -m1 'model name' /proc/cpuinfo | cut -d: -f2")
    return {
        "commit": _said("git", "rev-parse", "--short", "HEAD"),
        "dirty": bool(_said("git", "status", "--porcelain")),
        "jax": importlib.metadata.version("jax"),
        "python": platform.python_version(),
        "cpu": cpu.strip(),
        "cores": os.cpu_count(),
    }


def write_result(path: Path, result: Mapping[str, Any]) -> None:
    """Writes a result with its provenance as JSON."""
    path.write_text(json.dumps({**result, **provenance()}, indent=2) + "\n")


def put_table(name: str, text: str) -> None:
    """Puts a table between ``<!-- name -->`` and ``<!-- end of name -->``."""
    page = ROOT / "benchmarks" / "README.md"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = page.read_text(encoding="utf-8").split(begin)
    after = rest.split(end)[1]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def isolated(name: str, requirements: Sequence[str]) -> Path:
    """The Python of an environment of its own with these requirements, made once.

    Args:
      name: of the environment, for people.
      requirements: what ``pip install`` is told; a change makes a new environment.
    """
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    home = CACHE / f"{name}-{digest}"
    python, done = home / "bin" / "python", home / "complete"
    if not done.exists():
        print(f"making the environment of {name} in {home} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        install = [str(python), "-m", "pip", "install", "-q", *requirements]
        subprocess.run(install, check=True)
        done.touch()
    return python
