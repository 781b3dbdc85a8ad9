"""Handwritten digits: the small data set that ships inside the package."""

from pathlib import Path

from fedsparsify_jax.data.dataset import Dataset, Normalization
from fedsparsify_jax.data.sources.npz import load_npz
from fedsparsify_jax.errors import InputError


def load_digits(data_dir: Path | None = None) -> Dataset:
    """Loads 1,797 images of 8x8 pixels with values 0 to 16, in 10 classes.

    A stratified fifth (360 images) is the test set, the same in every run. The file's
    source and licence (CC BY 4.0) are in ``digits.LICENCE.md`` beside it.

    Args:
      data_dir: must be None; the data comes with the package.

    Raises:
      InputError: if a directory is named.

    References:
      Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI Machine
      Learning Repository (1998).

    Example:
      >>> digits = load_digits()
      >>> digits.train.x.shape, digits.train.x.dtype, digits.test.y.dtype
      ((1437, 8, 8), dtype('uint8'), dtype('int32'))
    """
    if data_dir is not None:
        raise InputError(
            "the data set 'digits' ships with the package and takes no --data-dir"
        )
    digits = load_npz(Path(__file__).with_name("digits.npz"))
    return digits._replace(normalization=Normalization(0.0, 16.0))
