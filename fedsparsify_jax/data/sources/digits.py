"""Handwritten digits: the small data set that ships inside scikit-learn."""

from pathlib import Path

import numpy as np

from fedsparsify_jax.data.dataset import Dataset, Normalization, from_arrays
from fedsparsify_jax.errors import InputError


def load_digits(data_dir: Path | None = None) -> Dataset:
    """1,797 images of 8x8 pixels with values 0 to 16, in 10 classes.

    A stratified fifth (360 images) is the test set, the same in every run.

    Args:
      data_dir: must be None; the data comes with scikit-learn.
    """
    if data_dir is not None:
        raise InputError(
            "the data set 'digits' ships with scikit-learn and takes no --data-dir"
        )
    # Importing scikit-learn takes longer than everything else at the start of a run.
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    digits = datasets.load_digits()
    x_train, x_test, y_train, y_test = train_test_split(
        digits.images.astype(np.uint8),
        digits.target,
        test_size=0.2,
        stratify=digits.target,
        random_state=0,
    )
    return from_arrays(
        "digits",
        x_train,
        y_train,
        x_test,
        y_test,
        normalization=Normalization(0.0, 16.0),
        num_classes=10,
    )
