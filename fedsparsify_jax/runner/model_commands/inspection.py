"""``fedsparsify inspect``: the layers of a model, and how many of its weights stay."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from fedsparsify_jax import deploy, text_table, trees
from fedsparsify_jax.deploy.files import check_there, format_of
from fedsparsify_jax.deploy.formats.onnx_arrays import weights
from fedsparsify_jax.deploy.graph.nodes import key
from fedsparsify_jax.deploy.saved import LAYERS, graph_of
from fedsparsify_jax.runner.model_commands.source import model_of_run, only, runnable
from fedsparsify_jax.runner.options.schema import POSITIONAL, Shown, check
from fedsparsify_jax.runner.storage.model_files import ARRAYS
from fedsparsify_jax.runner.storage.run_directory import RunDirectory

_EDGES = [m * 10.0**power for power in range(-12, 12) for m in (1, 2, 5)]
"""Where the rows of the histogram begin."""
_ROWS = 12
"""Rows at most; smaller magnitudes are counted in the first one."""
_BAR = 40


@dataclasses.dataclass(frozen=True)
class InspectConfig:
    """Print the layers of a model file or a run: shapes, kept weights, magnitudes."""

    file: Annotated[
        tuple[Path, ...], POSITIONAL, Shown("FILE_OR_RUN", hint="a model file or a run")
    ] = ()
    """Model file, or directory of a finished run."""
    json: bool = False
    """Print a JSON object in place of tables."""


def inspect(config: InspectConfig) -> dict[str, Any]:
    """Prints what is in a model file and returns it, as JSON values.

    Raises:
      InputError: for a file that is missing, damaged, or no model.
    """
    config = dataclasses.replace(config, **check(config))
    path = only(config.file, "model file or run", "inspect")
    about, arrays = _read(path)
    stored = RunDirectory(path).model / ARRAYS if path.is_dir() else path
    result = {
        "path": str(path),
        "about": about,
        "bytes": stored.stat().st_size,
        "numbers": sum(array.size for array in arrays.values()),
        "kept": sum(int(np.count_nonzero(array)) for array in arrays.values()),
        "layers": [
            {
                "name": name,
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "kept": int(np.count_nonzero(array)),
                "numbers": array.size,
            }
            for name, array in arrays.items()
        ],
        "magnitudes": _histogram(arrays),
    }
    print(json.dumps(result, indent=2) if config.json else _described(result))
    return result


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the description and the arrays of a model."""
    if path.is_dir():
        saved = model_of_run(path)
    elif format_of(path) in ("safetensors", "npz"):
        saved = deploy.load(path)
    else:
        check_there(path)
        model = runnable(path)
        shapes = {"input_shape": list(model.input_shape), "num_classes": model.outputs}
        shapes["input_dtype"] = str(model.dtype)
        arrays = weights(path) if format_of(path) == "onnx" else {}
        return shapes | model.about, arrays
    about = {name: value for name, value in saved.about.items() if name != LAYERS}
    return about, _named_arrays(saved)


def _named_arrays(saved: deploy.SavedModel) -> dict[str, np.ndarray]:
    """Returns the arrays of a model by path, and by the layers that they come from."""
    arrays = dict(trees.named_leaves(saved.variables))
    if LAYERS not in saved.about:
        return arrays
    origins = {
        f"params/{key(number, node)}": node.name
        for number, node in enumerate(graph_of(saved))
    }
    return {
        f"{name} ({origin})"
        if (origin := origins[name.rpartition("/")[0]])
        else name: a
        for name, a in arrays.items()
    }


def _histogram(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Counts the magnitudes of weights that are not zero, by ones, twos and fives."""
    floats = [array.ravel() for array in arrays.values() if array.dtype.kind == "f"]
    every = np.abs(np.concatenate([*floats, np.zeros(0, np.float32)]))
    every = every[(every > 0) & np.isfinite(every)]
    if not every.size:
        return {}
    place = np.maximum(np.searchsorted(_EDGES, every, side="right") - 1, 0)
    lowest = max(int(place.min()), int(place.max()) - _ROWS + 1)
    counts = np.bincount(np.maximum(place - lowest, 0))
    return {f"{_EDGES[lowest + n]:g}": int(count) for n, count in enumerate(counts)}


def _described(result: dict[str, Any]) -> str:
    """Returns the result of `inspect` as plain text."""
    about, numbers = result["about"], max(result["numbers"], 1)
    shape = " x ".join(map(str, about["input_shape"]))
    lines = [
        f"{result['path']}: {about.get('model', 'model')}, inputs {shape} "
        f"{about.get('input_dtype', '')}, {about['num_classes']} outputs"
    ]
    if "algorithm" in about:
        lines.append(f"trained by {about['algorithm']} on {about.get('dataset')}")
    size = result["bytes"]
    lines.append(
        f"{size:,} bytes, {size / (4 * numbers):.3f} x the dense numbers"
        if result["layers"]
        else f"{size:,} bytes, a program with its weights inside"
    )
    rows = [_row(layer) for layer in result["layers"]]
    if rows:
        total = {"name": "all", "shape": [], "dtype": ""}
        total |= {"kept": result["kept"], "numbers": result["numbers"]}
        head = ["layer", "shape", "kept", "of", "share"]
        lines += ["", text_table.aligned(head, [*rows, _row(total)])]
    most = max(result["magnitudes"].values(), default=1)
    bars = [
        [f"from {power}", f"{count:,}", "#" * round(_BAR * count / most)]
        for power, count in result["magnitudes"].items()
    ]
    if bars:
        table = text_table.aligned(["magnitude", "weights", ""], bars, "<><")
        lines += ["", table]
    return "\n".join(lines)


def _row(layer: dict[str, Any]) -> list[str]:
    share = layer["kept"] / max(layer["numbers"], 1)
    shape = " x ".join(map(str, layer["shape"]))
    counts = [f"{layer['kept']:,}", f"{layer['numbers']:,}"]
    return [layer["name"], shape, *counts, f"{share:.2%}"]
