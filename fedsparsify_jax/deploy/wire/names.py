"""Nested dicts as arrays under paths, and back."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from fedsparsify_jax.errors import InputError, shown

_DEEPEST = 64  # dicts in dicts
_SEPARATORS = "/#"  # separators of paths, and of the parts of an array


def flat(tree: Any, what: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Returns the arrays of a tree by path, and the paths of its empty dicts.

    Args:
      tree: nested dicts of arrays.
      what: it is, for errors.

    Raises:
      InputError: if it is anything else, or a name cannot be part of a path.

    >>> flat({"params": {"w": np.zeros(2)}, "stats": {}}, "variables")
    ({'params/w': array([0., 0.])}, ('stats',))
    """
    if not isinstance(tree, Mapping):
        raise InputError(f"{what} must be a dict of arrays, not {shown(tree)}")
    arrays: dict[str, np.ndarray] = {}
    empty = []
    for path, leaf in _walk(tree, what, ()):
        if isinstance(leaf, Mapping):
            empty.append("/".join(path))
        else:
            arrays["/".join(path)] = _array(leaf, what)
    return arrays, tuple(path for path in empty if path)


def fitting(masks: Any, leaves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the masks of arrays by path.

    Args:
      masks: nested dicts of bools.
      leaves: the arrays by path, see `flat`.

    Raises:
      InputError: if the two do not fit one another.
    """
    flat_masks, _ = flat(masks, "masks")
    for name in sorted(leaves.keys() ^ flat_masks.keys()):
        raise InputError(f"masks and variables differ: only one has {shown(name)}")
    for name, mask in flat_masks.items():
        if mask.dtype != bool or mask.shape != leaves[name].shape:
            raise InputError(
                f"the mask of {shown(name)} is {mask.dtype} {mask.shape}: it must be "
                f"bool {leaves[name].shape}"
            )
    return flat_masks


def _walk(
    tree: Mapping[Any, Any], what: str, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not tree:
        yield path, tree
    if len(path) > _DEEPEST:
        raise InputError(f"{what} has dicts in dicts, more than {_DEEPEST}")
    for name in sorted(tree, key=str):
        _check_name(name, what)
        leaf = tree[name]
        if isinstance(leaf, Mapping):
            yield from _walk(leaf, what, (*path, name))
        else:
            yield (*path, name), leaf


def _check_name(name: Any, what: str) -> None:
    texts = isinstance(name, str) and name not in ("", "__metadata__")
    if not texts or any(separator in name for separator in _SEPARATORS):
        raise InputError(
            f"{what} has an entry called {shown(name)}: names in messages are texts "
            "without '/' and '#'"
        )


def _array(leaf: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(leaf)
    except Exception as error:  # JAX's keys, ragged lists
        raise InputError(
            f"{what} has {shown(leaf)} where an array should be"
        ) from error


def nested(
    arrays: Mapping[str, np.ndarray], empty: Iterable[str] = ()
) -> dict[str, Any]:
    """Returns the tree of arrays by path.

    Raises:
      InputError: if paths cannot be those of one tree.
    """
    tree: dict[str, Any] = {}
    leaves: dict[str, Any] = {**arrays, **{path: {} for path in empty}}
    if len(leaves) < len(arrays) + len(tuple(empty)):
        raise InputError("the message has an array where it says there is none")
    for path in sorted(leaves):
        *parents, last = path.split("/")
        if len(parents) > _DEEPEST or not all((*parents, last)):
            raise InputError(f"the message has an array called {shown(path)}")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise InputError(f"{shown(path)} is inside of an array")
        if last in branch:
            raise InputError(f"{shown(path)} is there twice")
        branch[last] = leaves[path]
    return tree
