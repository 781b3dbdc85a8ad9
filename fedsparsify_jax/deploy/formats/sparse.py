"""Sparse model files: the wire format of updates, with the model's description.

Only the weights that are not zero are stored, and where they are, in a safetensors
container; see `deploy.wire`.
"""

import hashlib
from pathlib import Path

from fedsparsify_jax import trees
from fedsparsify_jax.deploy.saved import SavedModel, saved_model
from fedsparsify_jax.deploy.wire import decode, encode
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import Variables

ABOUT = "model"
"""The entry of the metadata that holds the description."""
_DIGEST = "digest"
"""The entry that holds the digest of the variables, with their names and shapes."""


def to_safetensors(saved: SavedModel) -> bytes:
    """Returns the file of a model; its numbers come back bit for bit."""
    metadata = {ABOUT: saved.about, _DIGEST: _digest(saved.variables)}
    return encode(saved.variables, saved.masks, metadata=metadata)


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
        if message.metadata.get(_DIGEST) != _digest(message.variables):
            raise InputError("its digest is not that of its numbers: it is damaged")
        saved = saved_model(message.variables, about)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:  # of variables that are no nested dicts of arrays
        raise InputError(f"{path} is a damaged model file ({error})") from error
    return saved


def _digest(variables: Variables) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, leaf in trees.named_leaves(variables):
        digest.update(f"{name} {leaf.dtype} {leaf.shape}\n".encode())
        digest.update(leaf.tobytes())
    return digest.hexdigest()
