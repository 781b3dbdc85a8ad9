"""The reader that docs/formats.md shows reads what the library writes."""

import re
from pathlib import Path

import numpy as np
import pytest

from fedsparsify_jax.deploy import wire

PAGE = Path(__file__).parents[3] / "docs" / "formats.md"


@pytest.fixture(scope="module")
def reader():
    blocks = re.findall(
        r'```python title="reader.py"\n(.*?)```', PAGE.read_text("utf-8"), re.S
    )
    assert len(blocks) == 3
    assert len(blocks[0].strip().splitlines()) <= 11  # ten, and the name
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    return names


@pytest.mark.parametrize("density", [0.0, 0.0001, 0.01, 0.3, 0.97, 1.0])
def test_the_readers_lines_read_messages(reader, density):
    rng = np.random.default_rng(0)
    masks = {
        "params": {"w": rng.random((300, 200)) < density, "b": rng.random(9) < density},
        "batch_stats": {"steps": np.ones((), bool)},
    }
    numbers = rng.normal(size=(300, 200)).astype(np.float32)
    variables = {
        "params": {
            "w": np.where(masks["params"]["w"], numbers, np.float32(0)),
            "b": np.where(masks["params"]["b"], 1.5, 0.0),
        },
        "batch_stats": {"steps": np.int32(3)},
    }
    for message in (wire.encode(variables, masks), wire.encode(variables)):
        arrays = reader["read"](message)
        assert arrays["batch_stats/steps"] == 3
        for name, expected in variables["params"].items():
            array = arrays[f"params/{name}"]
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


def test_the_page_names_every_part_and_value():
    text = PAGE.read_text("utf-8")
    for name in ("kept.bitmap", "kept.ones", "kept.zeros", "scale", *wire.VALUES):
        assert name in text
    assert f"Version {wire.VERSION} " in text
