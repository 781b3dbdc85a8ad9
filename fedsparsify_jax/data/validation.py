"""A share of the training data held out before it is divided among the clients.

Choices (of options, of a method) are made on it, so that the test set is looked at for
the outcome alone.
"""

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, with_rows
from fedsparsify_jax.errors import InputError

_STREAM = 1  # its draws are not those of a subset with the same seed


def held_out_rows(targets: np.ndarray, fraction: float, seed: int = 0) -> np.ndarray:
    """Draws the rows to hold out, ascending: a share of every class, or of all numbers.

    Args:
      targets: ``[n]``; integers are classes.
      fraction: share of each class, in (0, 1), rounded to whole examples.
      seed: which examples.

    Raises:
      InputError: if nothing would be held out, or nothing of a class would be left.

    Example:
      >>> labels = np.array([0, 1, 0, 1, 0, 1, 0, 1])
      >>> np.bincount(labels[held_out_rows(labels, 0.25)]).tolist()
      [1, 1]
    """
    rng = np.random.default_rng([seed, _STREAM])
    classes: np.ndarray = np.zeros(len(targets), np.int64)
    if np.issubdtype(targets.dtype, np.integer):
        classes = np.unique(targets, return_inverse=True)[1]
    chosen = []
    for label in range(int(classes.max()) + 1):
        rows = np.flatnonzero(classes == label)
        size = round(fraction * len(rows))
        if size == len(rows):
            raise InputError(
                f"--validation-fraction is {fraction}: it leaves no training example "
                f"of a group of {len(rows)}"
            )
        chosen.append(rng.permutation(rows)[:size])
    held = np.sort(np.concatenate(chosen))
    if not held.size:
        raise InputError(
            f"--validation-fraction is {fraction}: of {len(targets)} training examples "
            "it holds out none"
        )
    return held


def hold_out(dataset: Dataset, fraction: float, seed: int = 0) -> Dataset:
    """Moves a share of the training examples to ``validation``.

    Args:
      dataset: with all its training examples.
      fraction: share of each class (in regression, of all), at least 0 and below 1; 0
        leaves the data set as it is.
      seed: which examples.

    Raises:
      InputError: see `held_out_rows`.

    Example:
      >>> from fedsparsify_jax import data
      >>> digits = hold_out(data.load("digits"), 0.1)
      >>> len(digits.train.y), len(digits.validation.y)
      (1295, 142)
    """
    if fraction == 0:
        return dataset
    held = held_out_rows(np.asarray(dataset.train.y), fraction, seed)
    remaining = np.delete(np.arange(len(dataset.train.y)), held)
    validation = with_rows(dataset, held).train
    return with_rows(dataset, remaining)._replace(validation=validation)
