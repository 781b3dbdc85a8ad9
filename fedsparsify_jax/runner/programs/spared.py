"""Layers that a run is told not to prune, and patterns that its network can have."""

import jax

from fedsparsify_jax import data, trees
from fedsparsify_jax.errors import InputError, unknown
from fedsparsify_jax.models import Model
from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.types import Variables

FIRST, LAST = "first", "last"
"""Words for the layers at the two ends of a network."""


def shapes_of(model: Model) -> Variables:
    """Returns the shapes of a model's variables."""
    variables: Variables = jax.eval_shape(model.init, jax.random.key(0))
    return variables


def spared_layers(
    spare: str | None, model: Model, dataset: data.Dataset
) -> tuple[str, ...]:
    """Returns the layers that ``--spare`` names, by their paths.

    Args:
      spare: names with commas between them, the words first and last among them; None
        for no layer.
      model: the network.
      dataset: whose examples it reads.

    Raises:
      InputError: for a name that the network has not, or words for ends where it does
        not say which layers those are.

    Example:
      >>> from fedsparsify_jax import data, models
      >>> model = models.build("mlp", input_shape=(8, 8), num_classes=10)
      >>> spared_layers("first,Dense_2", model, data.load("digits"))
      ('Dense_0', 'Dense_2')
    """
    if spare is None:
        return ()
    variables = shapes_of(model)
    names = [name for name, _ in trees.named_leaves(variables["params"])]
    paths = list(dict.fromkeys(name.rpartition("/")[0] for name in names))
    ends = _ends(model, variables, dataset)
    layers = []
    for word in spare.split(","):
        layer = ends.get(word.strip().lower(), word.strip())
        if not any(f"/{layer}/" in f"/{name}/" for name in names):
            raise InputError(f"--spare: {unknown('layer', word, [*ends, *paths])}")
        layers.append(layer)
    return tuple(layers)


def _ends(model: Model, variables: Variables, dataset: data.Dataset) -> dict[str, str]:
    """Returns the paths of the first and the last layer, as far as they are known."""
    x = dataset.train.x
    example = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
    paths = [
        "/".join(layer.path)
        for layer in layers_of(model.apply, variables, example)
        if layer.kind not in ("BatchNorm", "Dropout")
    ]
    return {FIRST: paths[0], LAST: paths[-1]} if paths else {}
