"""Writers of small files in the real formats, and a cache that tests do not share."""

from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

Pictures = list[np.ndarray]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` caches what it reads: per test, and without asking the network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf-cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


@pytest.fixture
def write_images() -> Callable[..., datasets.Dataset]:
    """Writes pictures and label columns to a parquet file with the hub's features."""

    def write(
        path: Path | None, pictures: Pictures, image: str = "img", **labels: list[int]
    ) -> datasets.Dataset:
        columns = {image: [Image.fromarray(p) for p in pictures]} | labels
        features = datasets.Features(
            {image: datasets.Image()}
            | {name: datasets.ClassLabel(num_classes=100) for name in labels}
        )
        table = datasets.Dataset.from_dict(columns, features)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            table.to_parquet(path)
        return table

    return write


def pictures_of(
    n: int, shape: tuple[int, ...] = (32, 32, 3), seed: int = 0
) -> Pictures:
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (n, *shape), dtype=np.uint8))


@pytest.fixture
def pictures() -> Callable[..., Pictures]:
    """Random pictures: any slip in order, channel or axis changes them."""
    return pictures_of
