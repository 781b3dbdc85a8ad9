"""Rounds at the scale of papers, as shapes and settings: what is compiled and timed.

Models are looked up in the registry by name, so a row may name one that this version of
the library does not have; `missing` tells which. Batch size, learning rate and momentum
of the paper's own data sets are the defaults of `fedsparsify train`.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import data, models
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options import defaults
from fedsparsify_jax.training.losses import TASKS
from fedsparsify_jax.types import ClientData, PyTree


class Work(NamedTuple):
    """The work of a round, of one model.

    Attributes:
      model: its name in the registry.
      shape: of one example, without the batch axis.
      classes: C.
      clients: in the federation.
      examples: of every client.
      dtype: of the stored examples.
      dataset: whose defaults of `train` hold; of what is not the paper's, "digits".
      cohort: clients in a round; None for all.
      epochs: of every client in a round.
      settings: options of the algorithm that are not the defaults.
      network: options of the network that are not its defaults.
      source: where the settings come from, if not from the paper.
      limit: of whole numbers that stand for an example, exclusive: 256 for pixels.
    """

    model: str
    shape: tuple[int, ...]
    classes: int
    clients: int
    examples: int
    dtype: Any = np.uint8
    dataset: str = "digits"
    cohort: int | None = None
    epochs: int = 4
    settings: tuple[tuple[str, Any], ...] = ()
    network: tuple[tuple[str, Any], ...] = ()
    source: str = ""
    limit: int = 256


IMAGE = (32, 32, 3)
ROUNDS = {
    "mlp": Work("mlp", (28, 28), 10, 10, 6000, dataset="fashion_mnist"),
    "cnn": Work("cnn", IMAGE, 10, 10, 5000, dataset="cifar10"),
    "resnet56": Work("resnet56", IMAGE, 10, 10, 5000, dataset="cifar10"),
    "resnet20": Work(
        "resnet56", IMAGE, 10, 10, 5000, dataset="cifar10", network=(("blocks", 3),)
    ),
    "vgg16_bn": Work("vgg16_bn", IMAGE, 100, 10, 5000, dataset="cifar100"),
    "brain_age_cnn": Work(
        "brain_age_cnn", (91, 109, 91), 1, 8, 1000, np.float32, "brain_age"
    ),
    "lstm": Work("lstm", (200,), 2, 10, 2500, np.int32, "imdb", limit=25_000),
    "lenet5": Work("lenet5", (28, 28), 10, 10, 6000),
    "resnet18_gn": Work("resnet18_gn", (24, 24, 3), 100, 500, 100, cohort=10, epochs=1),
    "vit_tiny": Work("vit_tiny", IMAGE, 10, 10, 5000),
    "transformer": Work(
        "transformer", (200,), 2, 10, 2500, np.int32, "imdb", limit=25_000
    ),
}
"""One row a model, all clients take part unless a cohort is given."""


def missing(names: Any) -> list[str]:
    """Those that this version's registry does not have."""
    return [name for name in names if ROUNDS[name].model not in models.NAMES]


def options(work: Work) -> dict[str, Any]:
    """Options of the algorithm: learning rate, momentum, batches, epochs, cohort."""
    usual = defaults.of(work.dataset, "fedsparsify-global")
    chosen = {
        "learning_rate": usual["learning_rate"],
        "momentum": usual["momentum"] or None,
        "nesterov": usual["nesterov"] == "on",
        "batch_size": min(usual["batch_size"], work.examples),
        "local_epochs": work.epochs,
        "num_clients": work.clients,
        "loss_fn": TASKS[task_of(work)].loss_fn,
    }
    if work.cohort is not None:
        chosen["participation"] = work.cohort / work.clients
    return chosen | dict(work.settings)


def model_of(work: Work, **changed: Any) -> Model:
    """The network; pixels are scaled in it, as `train` does."""
    scaled = work.dtype == np.uint8
    return models.build(
        work.model,
        input_shape=work.shape,
        num_classes=work.classes,
        preprocess=data.Normalization(0.0, 256.0) if scaled else None,
        **dict(work.network) | changed,
    )


def task_of(work: Work) -> str:
    """The kind of problem: with one output, a number (an age)."""
    return "regression" if work.classes == 1 else "classification"


def client_shapes(work: Work) -> ClientData:
    """Shapes and dtypes of the clients' data."""
    n, m = work.clients, work.examples
    target = np.float32 if task_of(work) == "regression" else np.int32
    return ClientData(
        jax.ShapeDtypeStruct((n, m, *work.shape), work.dtype),
        jax.ShapeDtypeStruct((n, m), target),
        jax.ShapeDtypeStruct((n,), jnp.int32),
    )


def synthetic(work: Work, seed: int = 0) -> ClientData:
    """Data without meaning, of these shapes."""
    rng = np.random.default_rng(seed)
    shapes = client_shapes(work)
    if np.issubdtype(work.dtype, np.integer):
        x = rng.integers(0, work.limit, shapes.x.shape, dtype=work.dtype)
    else:
        x = rng.standard_normal(shapes.x.shape, dtype=np.float32)
    y = rng.integers(0, max(work.classes, 2), shapes.y.shape)
    count = np.full(work.clients, work.examples, np.int32)
    return ClientData(x, y.astype(shapes.y.dtype), count)


def bytes_of(tree: PyTree) -> int:
    """Bytes of all leaves, shapes or arrays."""
    return sum(
        math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)
    )
