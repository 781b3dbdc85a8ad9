"""Loading by name, and what it costs to import."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fedsparsify_jax import data
from fedsparsify_jax.errors import InputError


def test_names_are_plain() -> None:
    new = {"brain_age", "cifar10", "cifar100", "imdb"}
    assert new < set(data.NAMES)
    assert isinstance(data.NAMES, tuple)
    assert all(name.replace("_", "").isalnum() for name in data.NAMES)
    assert set(data.__all__) <= set(dir(data))


def test_unknown_names_hear_of_the_hub() -> None:
    message = "unknown data set 'cifar-10': did you mean 'cifar10'.*hf:owner/name"
    with pytest.raises(InputError, match=message):
        data.load("cifar-10")


def test_an_unknown_name_meets_the_nearest():
    with pytest.raises(InputError, match="did you mean 'fashion_mnist'"):
        data.load("fashionmnist")
    with pytest.raises(InputError, match=r"known: .*digits, .*npz"):
        data.load("xyz")


def test_options_reach_the_loader_or_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'digits' has no option 'seed': it has none"):
        data.load("digits", seed=1)
    with pytest.raises(
        InputError,
        match="'cifar100' has no option 'fine': it has coarse, train_subset, seed",
    ):
        data.load("cifar100", tmp_path, fine=True)
    with pytest.raises(InputError, match="'hf:a/b' has no option 'coarse'"):
        data.load("hf:a/b", tmp_path, coarse=True)


def test_text_paths_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    x = np.ones((2, 3), np.float32)
    np.savez(path, x_train=x, y_train=[0, 1], x_test=x, y_test=[1, 0])
    assert data.load("npz", str(path)).num_classes == 2


def test_heavy_packages_are_not_imported() -> None:
    program = (
        "import sys, fedsparsify_jax.data\n"
        "print([m for m in ('datasets', 'nibabel', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout.strip() == "[]"
