"""Sparse model files: the wire format of updates, with the model's description.

Only the weights that are not zero are stored, and where they are, in a safetensors
container; see `deploy.wire`.
"""

from pathlib import Path

from fedsparsify_jax.deploy.saved import SavedModel, saved_model
from fedsparsify_jax.deploy.wire import decode, encode
from fedsparsify_jax.errors import InputError

ABOUT = "model"
"""The entry of the metadata that holds the description."""


def to_safetensors(saved: SavedModel) -> bytes:
    """Returns the file of a model; its numbers come back bit for bit."""
    return encode(saved.variables, saved.masks, metadata={ABOUT: saved.about})


def from_safetensors(path: Path) -> SavedModel:
    """Reads a model file.

    Raises:
      InputError: for a file that is damaged, of another version, or no model.
    """
    try:
        message = decode(path.read_bytes())
        about = message.metadata.get(ABOUT)
        if not isinstance(about, dict):
            raise InputError("it holds no model: export a run to make one that does")
        saved = saved_model(message.variables, about)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # of variables that are no nested dicts of arrays
        raise InputError(f"{path} is a damaged model file ({error})") from error
    return saved
