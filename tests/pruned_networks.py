"""Small networks of every architecture, pruned at random, and inputs for them."""

from typing import NamedTuple

import jax
import numpy as np

from fedsparsify_jax import deploy, trees


class Case(NamedTuple):
    """An architecture as a description, small enough for a test."""

    name: str
    input_shape: tuple[int, ...]
    input_dtype: str = "uint8"
    num_classes: int = 3
    options: dict | None = None

    @property
    def about(self):
        """The description of a model file."""
        pixels = {"mean": 0.0, "std": 255.0}
        return {
            "model": self.name,
            "input_shape": list(self.input_shape),
            "input_dtype": self.input_dtype,
            "num_classes": self.num_classes,
            "normalization": pixels if self.input_dtype == "uint8" else {},
            "options": self.options or {},
        }


SHALLOW = {"blocks": 1, "widths": [4, 8]}
CASES = {
    "mlp": Case("mlp", (6, 6), options={"hidden": [24, 16]}),
    "mlp of vectors": Case("mlp", (30,), "float32", options={"hidden": [9]}),
    "cnn": Case("cnn", (8, 8, 3), options={"widths": [4, 6, 8], "hidden": 12}),
    "cnn without channels": Case("cnn", (9, 10), options={"widths": [4], "hidden": 9}),
    "vgg": Case(
        "vgg16_bn", (8, 8, 3), "float32", options={"widths": [[5, 6], [7], [8]]}
    ),
    "resnet": Case("resnet56", (8, 8, 3), options={"blocks": 2, "widths": [6, 8]}),
    "resnet of odd size": Case("resnet56", (7, 9, 1), "float32", options=SHALLOW),
    "lenet": Case("lenet5", (12, 12), options={"widths": [3, 4], "hidden": [9]}),
    "femnist": Case("femnist_cnn", (8, 9), options={"widths": [4, 5], "hidden": 9}),
    "brain age": Case("brain_age_cnn", (9, 10, 9), "float32", 1, {"widths": [4, 5]}),
    "frozen brain age": Case(
        "brain_age_cnn", (9, 8, 9), "float32", 1, {"widths": [4], "frozen": True}
    ),
}


def pruned(
    case: Case, sparsity: float, *, seed: int = 0, biases: bool = True, gain: float = 2
):
    """A model with random weights, biases and statistics, most of them pruned."""
    rng = np.random.default_rng(seed)
    model = deploy.saved.network(case.about)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def draw(name, leaf):
        if name.endswith("/var"):
            return rng.uniform(0.5, 2, leaf.shape).astype(np.float32)
        # Of a size that answers of deep networks are about 1.
        read = np.prod(leaf.shape[:-1]) * max(1 - sparsity, 0.05)
        size = np.sqrt(gain / read) if leaf.ndim > 1 else 0.3
        values = rng.normal(name.endswith("/scale"), size, leaf.shape)
        may_go = name.startswith("params/") and (biases or leaf.ndim > 1)
        return np.where(may_go & (rng.random(leaf.shape) < sparsity), 0, values)

    variables = trees.map_with_name(draw, shapes)
    variables = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    return deploy.saved_model(variables, case.about)


def inputs(case: Case, count: int = 5, seed: int = 1) -> np.ndarray:
    """Random raw inputs."""
    rng = np.random.default_rng(seed)
    shape = (count, *case.input_shape)
    if case.input_dtype == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    return rng.normal(size=shape).astype(np.float32)


def outputs(saved: deploy.SavedModel, x: np.ndarray) -> np.ndarray:
    """What a model answers."""
    return np.asarray(saved.model.apply(saved.variables, x)[0])
