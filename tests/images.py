"""Random pictures, and small files of them in the hub's format."""

from pathlib import Path

import datasets
import numpy as np
from PIL import Image

Pictures = list[np.ndarray]


def pictures(n: int, shape: tuple[int, ...] = (32, 32, 3), seed: int = 0) -> Pictures:
    """Any slip in order, channel or axis changes them."""
    rng = np.random.default_rng(seed)
    return list(rng.integers(0, 256, (n, *shape), dtype=np.uint8))


def write_images(
    path: Path | None, rows: Pictures, image: str = "img", **labels: list[int]
) -> datasets.Dataset:
    """Writes pictures and label columns to a parquet file with the hub's features."""
    columns = {image: [Image.fromarray(p) for p in rows]} | labels
    features = datasets.Features(
        {image: datasets.Image()}
        | {name: datasets.ClassLabel(num_classes=100) for name in labels}
    )
    table = datasets.Dataset.from_dict(columns, features)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
    return table
