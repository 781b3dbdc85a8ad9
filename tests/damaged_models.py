"""Small model files of every format, and what must come of damaged ones."""

from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from pruned_networks import CASES, pruned

from fedsparsify_jax import deploy
from fedsparsify_jax.deploy import files
from fedsparsify_jax.deploy.saved import compacted
from fedsparsify_jax.errors import InputError


class ModelFile(NamedTuple):
    """A model file: an architecture, whether it is compacted, and the format."""

    case: str
    compact: bool
    format: str

    @property
    def content(self) -> bytes:
        """The bytes of the whole file."""
        saved = pruned(CASES[self.case], 0.8, biases=False)
        saved = compacted(saved) if self.compact else saved
        return files.encode(saved, self.format)


MODEL_FILES = {
    f"{case}, {'compact, ' * compact}{format}": ModelFile(case, compact, format)
    for case in ("mlp of vectors", "resnet of odd size")
    for compact in (False, True)
    for format in deploy.FORMATS
}


def outcome(path: Path) -> str:
    """``refused`` with one line that names the file, or ``accepted`` as a model.

    Raises:
      AssertionError: for a refusal that says less, or a model that cannot be.
      Exception: whatever reading lets through.
    """
    try:
        if path.suffix in (".safetensors", ".npz"):
            saved = deploy.load(path)
        else:
            model = deploy.runnable(path)
            assert len(model.input_shape) > 0 and model.outputs > 0
            return "accepted"
    except InputError as error:
        message = str(error)
        assert message.isprintable() and str(path) in message, message
        return "refused"
    x = np.zeros((2, *saved.about["input_shape"]), saved.about["input_dtype"])
    outputs, _ = jax.eval_shape(saved.model.apply, saved.variables, x)
    assert outputs.shape == (2, saved.about["num_classes"])
    leaves = zip(
        jax.tree.leaves(saved.variables), jax.tree.leaves(saved.masks), strict=True
    )
    assert all(leaf.shape == mask.shape for leaf, mask in leaves)
    return "accepted"
