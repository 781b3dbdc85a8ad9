"""Model files that NumPy reads: plain arrays, their masks, and the description.

Arrays are under their paths, such as ``params/Dense_0/kernel``, and masks under
``mask/`` and the path; ``about`` is the description as JSON in UTF-8 bytes, and
``format`` the version.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from fedsparsify_jax import trees
from fedsparsify_jax.data.formats.limits import check_size
from fedsparsify_jax.data.formats.npy import read_array
from fedsparsify_jax.deploy.saved import SavedModel, saved_model
from fedsparsify_jax.errors import InputError

FORMAT = 1
"""The version of the format."""
_MASK, _ABOUT, _FORMAT = "mask/", "about", "format"


def to_npz(saved: SavedModel) -> bytes:
    """Returns the file of a model, compressed."""
    arrays = dict(trees.named_leaves(saved.variables))
    arrays |= {_MASK + name: m for name, m in trees.named_leaves(saved.masks)}
    text = json.dumps(saved.about).encode()
    arrays[_ABOUT] = np.frombuffer(text, np.uint8)
    arrays[_FORMAT] = np.int32(FORMAT)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def from_npz(path: Path) -> SavedModel:
    """Reads a model file.

    Raises:
      InputError: for a file that is damaged, of another version, or no model.
    """
    arrays = read_arrays(path)
    version = arrays.pop(_FORMAT, None)
    if version is None or _ABOUT not in arrays:
        raise InputError(f"{path} is no model file: it lacks {_FORMAT} and {_ABOUT}")
    if version.shape != () or version != FORMAT:
        raise InputError(
            f"{path} is of another version of the format than {FORMAT}: export the run "
            "again with this version of the library"
        )
    try:
        about: Any = json.loads(arrays.pop(_ABOUT).tobytes())
        masks = {n: arrays.pop(n) for n in list(arrays) if n.startswith(_MASK)}
        saved = saved_model(nested(arrays), about)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except Exception as error:
        raise InputError(f"{path} is a damaged model file ({error})") from error
    given = {_MASK + name: mask for name, mask in trees.named_leaves(saved.masks)}
    same = masks.keys() == given.keys() and all(
        np.array_equal(masks[name], mask) for name, mask in given.items()
    )
    if not same:
        raise InputError(f"{path} is a damaged model file: its masks do not fit")
    return saved


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an npz file by name.

    Raises:
      InputError: for a file that is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return read_members(path, archive)
    except InputError:
        raise
    except Exception as error:  # damage shows as many kinds, even NotImplementedError
        raise InputError(f"{path} is not a readable npz file ({error})") from error


def read_members(path: Path, archive: zipfile.ZipFile) -> dict[str, np.ndarray]:
    """Reads all arrays of an npz file, none larger than the file can hold."""
    arrays = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        packed = member.compress_type == zipfile.ZIP_DEFLATED
        if not packed and member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed as savez_compressed does not")
        stored = min(member.compress_size, path.stat().st_size)
        where = f"{path} is not a readable npz file: {name}"
        check_size(where, member.file_size, stored, packed=packed)
        with archive.open(member) as file:
            arrays[name] = read_array(file, member.file_size, where)
    return arrays


def nested(arrays: dict[str, Any]) -> dict[str, Any]:
    """Returns arrays under ``"a/b"`` as a nested dict.

    Raises:
      InputError: for a path that leads through another array.

    Example:
      >>> nested({"params/b": 1, "params/w": 2})
      {'params': {'b': 1, 'w': 2}}
    """
    tree: dict[str, Any] = {}
    for path, array in arrays.items():
        *parents, last = path.split("/")
        branch = tree
        for name in parents:
            branch = branch.setdefault(name, {})
            if not isinstance(branch, dict):
                raise InputError(f"the array {path} is inside another one")
        if last in branch:
            raise InputError(f"the array {path} is there twice")
        branch[last] = array
    return tree
