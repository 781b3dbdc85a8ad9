"""Shadow models' scores, a chunk at a time, with every finished chunk on disk.

SHADOWS/NAME/00000-00007.npz   numbers of the shadow models, ``[c]``; their scores of
                               the examples that are attacked, ``[c, n]``; the halves of
                               all examples that they were trained on, packed bits
                               ``[c, ...]``. NAME is made of what decides them.
"""

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fedsparsify_jax.deploy import files
from fedsparsify_jax.runner.audit.members import half

Trainer = Callable[[Sequence[int]], np.ndarray]
"""Numbers of shadow models to their scores of the examples attacked, ``[c, n]``."""


class Shadows(NamedTuple):
    """Shadow models, as attacks see them."""

    scores: np.ndarray  # [S, n]
    members: np.ndarray  # [S, n] bool: whether a model was trained on an example


class Setting(NamedTuple):
    """The settings of shadow models.

    Attributes:
      number: S.
      at_once: how many are trained in one call.
      total: examples of the pool, of which each has a half.
      asked: numbers of those that are attacked, ``[n]``.
      seed: of the audit.
    """

    number: int
    at_once: int
    total: int
    asked: np.ndarray
    seed: int


def name_of(decisive: Any) -> str:
    """Returns a name made of JSON values that decide the scores.

    >>> name_of({"seed": 0}) == name_of({"seed": 1})
    False
    """
    text = json.dumps(decisive, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trained(
    folder: Path, setting: Setting, train: Trainer, say: Callable[[str], None]
) -> Shadows:
    """Trains the shadow models that are not in the folder yet; returns all.

    Args:
      folder: of their scores; made if it is missing.
      setting: how many, of what.
      train: trains some.
      say: told of every chunk.
    """
    scores = _stored(folder, setting)
    missing = [n for n in range(setting.number) if n not in scores]
    if len(missing) < setting.number:
        say(f"shadow runs: {setting.number - len(missing)} are there already")
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(missing), setting.at_once):
        start = time.perf_counter()
        numbers = missing[first : first + setting.at_once]
        rows = train(numbers)
        _store(folder, setting, numbers, rows)
        scores |= dict(zip(numbers, rows, strict=True))
        seconds = time.perf_counter() - start
        say(f"shadow runs: {len(scores):,} of {setting.number:,} ({seconds:.1f} s)")
    order = range(setting.number)
    return Shadows(
        scores=np.stack([scores[n] for n in order]),
        members=np.stack([_inside(setting, n)[setting.asked] for n in order]),
    )


def _inside(setting: Setting, shadow: int) -> np.ndarray:
    """Returns bool ``[total]``: the examples that a shadow model is trained on."""
    inside = np.zeros(setting.total, bool)
    inside[half(setting.total, shadow, setting.seed)] = True
    return inside


def _store(
    folder: Path, setting: Setting, numbers: Sequence[int], scores: np.ndarray
) -> None:
    """Writes a chunk, whole or not at all."""
    file = io.BytesIO()
    halves = np.stack([np.packbits(_inside(setting, n)) for n in numbers])
    np.savez(file, numbers=np.array(numbers), scores=scores, halves=halves)
    name = f"{numbers[0]:05d}-{numbers[-1]:05d}.npz"
    files.write(folder / name, file.getvalue())


def _stored(folder: Path, setting: Setting) -> dict[int, np.ndarray]:
    """Returns the scores in a folder by shadow; damaged files count nothing."""
    scores: dict[int, np.ndarray] = {}
    for path in sorted(folder.glob("*.npz")):
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
                chunk = dict(
                    zip(arrays["numbers"].tolist(), arrays["scores"], strict=True)
                )
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            continue
        scores |= {
            n: row
            for n, row in chunk.items()
            if n < setting.number and row.shape == setting.asked.shape
        }
    return scores
