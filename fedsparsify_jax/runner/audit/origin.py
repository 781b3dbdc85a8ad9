"""The origin of an audit's figures: the commit of the library, and versions."""

import subprocess
from pathlib import Path

from fedsparsify_jax.runner.storage.run_directory import versions

_PACKAGE = Path(__file__).parents[2]


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *words], capture_output=True, text=True, check=False, cwd=_PACKAGE
        )
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def origin() -> dict[str, object]:
    """Returns commit, whether the library differs from it, and versions.

    The commit is None where the library is no part of a checkout.

    >>> sorted(origin())
    ['commit', 'dirty', 'versions']
    """
    is_tracked = _git("ls-files", "--error-unmatch", "__init__.py") is not None
    commit = _git("rev-parse", "HEAD") if is_tracked else None
    dirty = None if commit is None else bool(_git("status", "--porcelain", "--", "."))
    return {"commit": commit, "dirty": dirty, "versions": versions()}
