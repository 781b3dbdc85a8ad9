"""Records of rounds, and the closing summary of a run."""

import math
import statistics
from typing import Any

import jax
import numpy as np
from rich.console import Console

from fedsparsify_jax.metrics.per_client import spread, tenths
from fedsparsify_jax.runner.display.progress import FAILED, duration, failures, measured
from fedsparsify_jax.runner.programs.program import Evaluations, Report

Record = dict[str, Any]

_TRY = "try a smaller --learning-rate"
_FORMULA = "non-zeros x 32 bit (FedSparsify authors; masks not counted)"
_UPLOADS = {
    "topk": "; uploads: sent entries x 32 bit and their positions",
    "int8": "; uploads: kept entries x 8 bit and a scale a layer",
    "int4": "; uploads: kept entries x 4 bit and a scale a layer",
}
COUNTED = ("merged", *FAILED)
"""Clients of a round that every line of ``metrics.jsonl`` counts."""


def _total(*messages: jax.Array) -> int:
    return sum(int(np.sum(sizes, dtype=np.int64)) for sizes in messages)


TENTH = "client_accuracy_tenth_"
"""Fields of a histogram: clients whose accuracy is in that tenth, counted from 1."""


def _number(value: Any) -> float | None:
    """Returns the shortest decimal of a float32, None if it is not finite."""
    number = float(str(np.float32(value)))
    return number if math.isfinite(number) else None


def round_record(
    report: Report, metric: str, dense: int, seconds: float, *, due: bool = True
) -> Record:
    """Returns a line of ``metrics.jsonl``; without an evaluation, its values are null.

    Args:
      report: of the round.
      metric: what examples are judged by.
      dense: bytes of a message with the whole model.
      seconds: what the round took.
      due: whether the model was evaluated after it.
    """
    info = report.info
    measured = evaluated(report.evaluations, metric, due=due)
    if report.clients is not None:
        each = spread(report.clients)._asdict()
        measured |= {
            f"client_{metric}_{name}": _number(value) if due else None
            for name, value in each.items()
        }
        if metric == "accuracy":
            measured |= {
                f"{TENTH}{number}": clients if due else None
                for number, clients in enumerate(tenths(report.clients), 1)
            }
    return {
        "round": int(info.round),
        **measured,
        "train_loss": _number(info.loss),
        "sparsity": _number(info.sparsity),
        "target_sparsity": _number(info.target_sparsity),
        # Summed on the host: a large cohort's bytes exceed 32 bit.
        "bytes_up": _total(info.bytes_up, info.setup_up),
        "bytes_down": _total(info.bytes_down, info.setup_down),
        "bytes_dense": 2 * int(np.count_nonzero(info.cohort >= 0)) * dense,
        "kept": {name: int(count) for name, count in info.kept.items()},
        **{field: int(getattr(info, field)) for field in COUNTED},
        "seconds": round(seconds, 6),
    }


def evaluated(evaluations: Evaluations, metric: str, *, due: bool = True) -> Record:
    """Returns the fields of an evaluation; null if none was due."""
    fields: Record = {}
    for name, evaluation in evaluations.items():
        fields[f"{name}_{metric}"] = _number(evaluation.metric) if due else None
        fields[f"{name}_loss"] = _number(evaluation.loss) if due else None
    return fields


def summarize(
    records: list[Record],
    *,
    parameters: int,
    kept: int,
    numbers: int,
    compression: str = "none",
    finished: Record | None = None,
) -> dict[str, Any]:
    """Returns totals and last values of a run's rounds.

    Args:
      records: all rounds of ``metrics.jsonl``.
      parameters: prunable parameters of the model.
      kept: how many of them the final masks keep.
      numbers: all numbers of the model, statistics included.
      compression: of uploads.
      finished: fields of the last round that post-training changed. No round had that
        model, so that the best of it, and its mean, are the value itself.
    """
    last = records[-1] | (finished or {})
    judged = records if finished is None else [last]
    metric, best_of = ("mae", min) if "test_mae" in last else ("accuracy", max)
    evaluations: Record = {}
    for name in ("test", "validation"):
        field = f"{name}_{metric}"
        if field in last:
            values = [r[field] for r in judged if r[field] is not None]
            mean = statistics.fmean(values[-10:]) if values else None
            evaluations |= {
                field: last[field],
                f"{name}_loss": last[f"{name}_loss"],
                f"best_{field}": best_of(values) if values else None,
                f"last_10_mean_{field}": mean,
            }

    of_clients = {f: last[f] for f in last if f.startswith(f"client_{metric}")}
    if finished is not None:  # they are of the model before
        of_clients = {}

    def total(field: str) -> Any:
        # Older runs do not count failures: summed as if no client had failed.
        return sum(r.get(field, 0) for r in records)

    up, down, dense = map(total, ("bytes_up", "bytes_down", "bytes_dense"))
    moved, messages = up + down, dense // (4 * numbers)
    return {
        "rounds": last["round"],
        **evaluations,
        **of_clients,
        "sparsity": last["sparsity"],
        "target_sparsity": last["target_sparsity"],
        "parameters": parameters,
        "parameters_kept": kept,
        "bytes_formula": _FORMULA + _UPLOADS.get(compression, ""),
        "bytes_up": up,
        "bytes_down": down,
        # One bit a prunable parameter, and a 32-bit index a non-zero, for each message;
        # compressed uploads have no such index.
        "bytes_with_masks": moved + messages * math.ceil(parameters / 8),
        "bytes_with_indices": 2 * moved if compression == "none" else up + 2 * down,
        "bytes_dense": dense,
        **{field: total(field) for field in FAILED},
        "rounds_without_clients": sum(r.get("merged", 1) == 0 for r in records),
        "communication_saving": dense / moved if moved else None,
        **_messages(records, dense),
        **({} if finished is None else {"before_post_training": _before(records[-1])}),
        "seconds": total("seconds"),
        "median_round_seconds": statistics.median(r["seconds"] for r in records),
    }


def _before(last: Record) -> Record:
    """Returns what the last round had before post-training."""
    return {k: v for k, v in last.items() if k.startswith(("test_", "sparsity"))}


def _messages(records: list[Record], dense: int) -> Record:
    """Returns the bytes of encoded messages, if those of all rounds were measured."""
    fields = ("message_bytes_up", "message_bytes_down")
    if not all(field in record for record in records for field in fields):
        return {}
    totals = {field: sum(record[field] for record in records) for field in fields}
    moved = sum(totals.values())
    return {**totals, "message_bytes": moved, "message_saving": dense / moved}


def blind(targets: np.ndarray, *, is_class: bool) -> tuple[float, float]:
    """Returns what one answer for all examples reaches, and its standard error.

    Args:
      targets: of the test set.
      is_class: whether they are classes, judged by accuracy; else by absolute error.

    Example:
      >>> blind(np.array([0, 0, 1, 2]), is_class=True)
      (0.5, 0.25)
    """
    if is_class:
        share = float(np.bincount(targets).max()) / len(targets)
        return share, math.sqrt(share * (1 - share) / len(targets))
    errors = np.abs(targets - np.median(targets))
    return float(errors.mean()), float(errors.std()) / math.sqrt(len(targets))


def doubt(summary: dict[str, Any], records: list[Record], chance: float) -> str:
    """Returns why a finished run is none to go on with; nothing for a usable one.

    Args:
      summary: of `summarize`.
      records: all rounds.
      chance: what may be reached without learning, see `blind`.
    """
    metric = "mae" if "test_mae" in summary else "accuracy"
    last, best = records[-1], summary[f"best_test_{metric}"]
    if last["train_loss"] is None or summary["test_loss"] is None or best is None:
        return f"the training diverged (losses are not finite): {_TRY}"
    if last.get("merged", 1) == 0 and last.get("rejected", 0):
        return f"the training diverged (no upload of the last round is finite): {_TRY}"
    if best >= chance if metric == "mae" else best <= chance:
        return (
            "the model never became better than one answer for all examples: look at "
            f"the data, or {_TRY}"
        )
    return ""


def _forms(compact: dict[str, Any]) -> str:
    """Returns the compact forms of a run and what they saved, for people.

    >>> _forms({"forms": [{"from_round": 120, "step_cost": 0.62}], "work_saved": 0.15})
    'from round 120 a step costs 62 %; about 15 % of all steps saved'
    >>> _forms({"forms": [], "work_saved": 0.0})
    'none that would have paid'
    """
    if not compact["forms"]:
        return "none that would have paid"
    parts = [
        f"from round {form['from_round']} a step costs {form['step_cost']:.0%}"
        for form in compact["forms"]
    ]
    listed = ", ".join(part.replace("%", " %") for part in parts)
    saved = f"{100 * compact['work_saved']:.0f} %"
    return f"{listed}; about {saved} of all steps saved"


def _past(summary: dict[str, Any]) -> dict[str, str]:
    """Returns the lines on what was forgotten and on fused models, if there are any."""
    rows = {}
    if forgetting := summary.get("forgetting"):
        most = max(forgetting["forget_fraction"])
        at = forgetting["rounds"][forgetting["forget_fraction"].index(most)]
        rows["forgotten"] = f"{100 * most:.2f} % of the validation set since round {at}"
    if fusion := summary.get("fusion"):
        rows["fused"] = (
            f"test accuracy {100 * fusion['test_accuracy']:.2f} %, validation "
            f"{100 * fusion['validation_accuracy']:.2f} %; {fusion['models']} models, "
            f"{fusion['bytes'] / 1e6:,.2f} MB"
        )
        if "inference_flops" in fusion:
            rows["fused"] += f", {fusion['inference_flops'] / 1e6:,.2f} MFLOPs"
    return rows


def _private(summary: dict[str, Any]) -> dict[str, str]:
    """Returns the line on differential privacy, if the run has some."""
    if "epsilon" not in summary:
        return {}
    of = summary["privacy"]
    unit, z = of.get("unit", "client"), of["noise_multiplier"]
    text = (
        f"epsilon {summary['epsilon']:.4g} at delta {of['delta']:g} ({of['neighbours']}"
        f" {unit}), noise {z:.4g} x clip {of['clip_norm']:g}"
    )
    return {"privacy": text}


def _encoded(summary: dict[str, Any]) -> dict[str, str]:
    """Returns the line on encoded messages, if they were measured."""
    if "message_bytes" not in summary:
        return {}
    size, saving = summary["message_bytes"], summary["message_saving"]
    text = f"{size / 1e6:,.2f} MB with positions and headers ({saving:.2f} x)"
    return {"encoded messages": text}


def _short_formula(summary: dict[str, Any]) -> str:
    """Returns how the bytes of a run are counted, without its remarks."""
    formula: str = summary["bytes_formula"]
    return formula.replace(_FORMULA, "non-zeros x 32 bit").replace("; ", ", ")


def display(console: Console, summary: dict[str, Any], where: str) -> None:
    """Prints the summary: a name and a value a line, never cut or wrapped."""

    def percent(value: float | None) -> str:
        return "not a number" if value is None else f"{100 * value:.2f} %"

    def megabytes(count: int) -> str:
        return f"{count / 1e6:,.2f} MB"

    moved = summary["bytes_up"] + summary["bytes_down"]
    saving = summary["communication_saving"]
    name, value = measured(summary)
    best = {f"test_{name}": summary[f"best_test_{name}"]}
    rows = {f"test {name}": f"{value}  (best {measured(best)[1]})"}
    if f"validation_{name}" in summary:
        held = {f"test_{name}": summary[f"validation_{name}"]}
        rows[f"validation {name}"] = measured(held)[1]
    if before := summary.get("before_post_training"):
        rows["before pruning"] = measured(before)[1]
    if "client_accuracy_mean" in summary:
        rows["clients' accuracy"] = (
            f"{percent(summary['client_accuracy_mean'])}  "
            f"(worst tenth {percent(summary['client_accuracy_worst_decile'])})"
        )
    rows |= {
        "sparsity": (
            f"{percent(summary['sparsity'])}"
            f"  (target {percent(summary['target_sparsity'])})"
        ),
        "parameters kept": (
            f"{summary['parameters_kept']:,} of {summary['parameters']:,}"
        ),
        "bytes moved": (
            f"{megabytes(moved)} as {_short_formula(summary)}; dense "
            f"{megabytes(summary['bytes_dense'])}"
            + (f" ({saving:.2f} x)" if saving else "")
        ),
        **_encoded(summary),
        **_private(summary),
        "time": (
            f"{duration(summary['seconds'])}"
            f" ({duration(summary['median_round_seconds'])} a round)"
        ),
        "run directory": where,
    }
    rows |= _past(summary)
    if compact := summary.get("sparse_training"):
        rows["smaller forms"] = _forms(compact)
    if failed := failures(summary):
        rows["clients' failures"] = failed
    for sparsity, level in summary.get("levels", {}).items():
        rows[f"level {sparsity}"] = (
            f"{measured(level)[1]}  ({level['parameters_kept']:,} parameters)"
        )
    width = max(map(len, rows))
    lines = [f"{name:<{width}}  {value}" for name, value in rows.items()]
    console.print("\n" + "\n".join(lines), soft_wrap=True, markup=False)
    warning = summary.get("warning")
    if summary[f"test_{name}"] is None or summary["test_loss"] is None:
        warning = f"the training diverged (losses are not finite): {_TRY}"
    if warning:
        console.print(f"warning: {warning}", soft_wrap=True)
