"""Rounds as lines of ``metrics.jsonl``."""

import math
from typing import Any

import numpy as np

from fedsparsify_jax.runner.display.summary import COUNTED
from fedsparsify_jax.runner.programs.program import Evaluations
from fedsparsify_jax.types import RoundInfo

Record = dict[str, Any]


def _number(value: Any) -> float | None:
    """A float32 as the shortest decimal that gives it back; None if not finite."""
    number = float(str(np.float32(value)))
    return number if math.isfinite(number) else None


def round_record(
    info: RoundInfo,
    evaluations: Evaluations,
    metric: str,
    dense: int,
    seconds: float,
    *,
    due: bool = True,
) -> Record:
    """One line of ``metrics.jsonl``; if no evaluation was due, its values are null."""
    measured: Record = {}
    for name, seen in evaluations.items():
        measured[f"{name}_{metric}"] = _number(seen.metric) if due else None
        measured[f"{name}_loss"] = _number(seen.loss) if due else None
    return {
        "round": int(info.round),
        **measured,
        "train_loss": _number(info.loss),
        "sparsity": _number(info.sparsity),
        "target_sparsity": _number(info.target_sparsity),
        # Summed on the host: a large cohort's bytes exceed 32 bit.
        "bytes_up": int(np.sum(info.bytes_up, dtype=np.int64)),
        "bytes_down": int(np.sum(info.bytes_down, dtype=np.int64)),
        "bytes_dense": 2 * len(info.cohort) * dense,
        "kept": {name: int(count) for name, count in info.kept.items()},
        **{field: int(getattr(info, field)) for field in COUNTED},
        "seconds": round(seconds, 6),
    }
