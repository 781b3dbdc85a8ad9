"""The final model as files that anything can read.

``model.safetensors`` holds every array under its path (``params/Dense_0/kernel``), with
pruned weights as exact zeros; ``model.json`` describes the model.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from fedsparsify_jax import trees
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Variables

ARRAYS, DESCRIPTION = "model.safetensors", "model.json"


def save_model(
    directory: Path, variables: Variables, description: dict[str, Any]
) -> None:
    """Writes a model into a directory, and makes it if it is missing."""
    directory.mkdir(parents=True, exist_ok=True)
    # safetensors writes the memory of a strided view as it lies: copy to C order.
    arrays = {
        name: np.array(leaf, order="C") for name, leaf in trees.named_leaves(variables)
    }
    save_file(arrays, directory / ARRAYS)
    text = json.dumps(description, indent=2) + "\n"
    (directory / DESCRIPTION).write_text(text, encoding="utf-8")


def load_model(directory: Path | str) -> tuple[Variables, dict[str, Any]]:
    """Reads a saved model: variables as NumPy arrays, and the description.

    Raises:
      InputError: if a file is missing or damaged.
    """
    directory = Path(directory)
    try:
        arrays = load_file(directory / ARRAYS)
        description = json.loads((directory / DESCRIPTION).read_text(encoding="utf-8"))
    except Exception as error:  # safetensors has its own kind, not exported
        raise InputError(f"no readable model in {directory} ({error})") from error
    return trees.nested(arrays), description
