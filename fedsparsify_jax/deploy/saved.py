"""Models as files hold them: arrays, masks, and a description to rebuild them by."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import models, trees
from fedsparsify_jax.data import Normalization
from fedsparsify_jax.deploy.graph import nodes
from fedsparsify_jax.deploy.graph.checks import MOST_NUMBERS
from fedsparsify_jax.deploy.graph.compaction import compact
from fedsparsify_jax.deploy.graph.nodes import Graph
from fedsparsify_jax.deploy.graph.simplify import simplify
from fedsparsify_jax.deploy.graph.tracing import UnknownOperationError, trace
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.models import Model
from fedsparsify_jax.types import ApplyFn, Masks, Variables

LAYERS = "layers"
"""The field of a description that lists the layers of a compacted network."""


class SavedModel(NamedTuple):
    """A trained model, and everything that a file keeps of it.

    Attributes:
      variables: as NumPy arrays; pruned weights are zero.
      masks: bool tree like them: the weights that are not zero, and all that is no
        parameter.
      model: the network, which takes raw inputs as the data set has them.
      about: JSON values: architecture, normalisation, and where it comes from.
    """

    variables: Variables
    masks: Masks
    model: Model
    about: dict[str, Any]


def saved_model(variables: Variables, about: Mapping[str, Any]) -> SavedModel:
    """Returns a model rebuilt from its variables and its description.

    Args:
      variables: nested dict of arrays.
      about: with ``model``, a name of `models.NAMES`, or ``layers``; ``input_shape``
        and ``num_classes``; perhaps ``normalization``, ``input_dtype``, ``task``,
        ``labels``, what the classes are called, and the ``options`` of
        `models.build`.

    Raises:
      InputError: if the description is wrong, or its network has other variables.

    Example:
      >>> from fedsparsify_jax import models
      >>> about = {"model": "mlp", "input_shape": [4], "num_classes": 2}
      >>> model = models.build("mlp", input_shape=(4,), num_classes=2)
      >>> saved = saved_model(model.init(jax.random.key(0)), about)
      >>> saved.model.apply(saved.variables, np.zeros((3, 4)))[0].shape
      (3, 2)
    """
    about = dict(about)
    shape, classes = _checked_sizes(about)
    dtype, task = about.get("input_dtype", "float32"), about.get("task")
    about["input_dtype"] = _checked_dtype(dtype)
    about["task"] = task or ("classification" if classes > 1 else "regression")
    if about["task"] not in ("classification", "regression"):
        raise InputError(f"the model's task is {shown(task)}")
    _check_labels(about.get("labels"), classes)
    variables = jax.tree.map(np.asarray, variables)
    if LAYERS in about:
        graph = nodes.from_description(about[LAYERS], variables)
        if graph[0].shape != shape or graph[-1].shape != (classes,):
            raise InputError("the layers do not fit the shapes of inputs and outputs")
        model = _model_of(graph)
    else:
        model = network(about)
        _check_variables(model, variables)
    masks = trees.map_with_name(_mask, variables)
    return SavedModel(variables, masks, model, about)


def traced_model(
    apply_fn: ApplyFn,
    variables: Variables,
    input_shape: Sequence[int],
    *,
    input_dtype: Any = "float32",
    **about: Any,
) -> SavedModel:
    """Returns a model of any dense or convolutional network, your own for instance.

    Args:
      apply_fn: its forward pass, with outputs ``[B, C]``.
      variables: its variables.
      input_shape: of one example.
      input_dtype: of raw inputs.
      **about: more of the description, such as ``task="regression"``.

    Returns:
      The model as layers that a file can describe; its variables are those of the
      layers, with norms folded into the layers before them.

    Raises:
      InputError: for an operation that no layer stands for.

    Example:
      >>> from flax import nnx
      >>> from fedsparsify_jax import models
      >>> model = models.from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
      >>> saved = traced_model(model.apply, model.init(jax.random.key(0)), (3,))
      >>> saved.model.apply(saved.variables, np.zeros((5, 3)))[0].shape
      (5, 2)
    """
    shape, dtype = tuple(input_shape), np.dtype(input_dtype)
    graph = simplify(trace(apply_fn, variables, shape, dtype))
    if len(graph[-1].shape) != 1:
        raise InputError(f"the outputs have shape [B, {graph[-1].shape}], not [B, C]")
    sizes = {"input_shape": list(shape), "num_classes": graph[-1].channels}
    layers = {LAYERS: nodes.describe(graph), "input_dtype": str(dtype)}
    return saved_model(nodes.variables(graph), about | sizes | layers)


def network(about: Mapping[str, Any], *, conv: str | None = None) -> Model:
    """Returns the network that a description names.

    Args:
      about: see `saved_model`.
      conv: how convolutions are computed, where there are any.

    Raises:
      InputError: if the description is wrong.
    """
    name = about.get("model")
    if not isinstance(name, str):
        raise InputError("the description names no model")
    shape, classes = _checked_sizes(about)
    numbers = about.get("normalization") or {}
    if not isinstance(numbers, Mapping):
        raise InputError(f"the model's normalization is {shown(numbers)}")
    try:
        normalization = Normalization(**numbers)
    except (TypeError, ValueError) as error:
        raise InputError(f"the model's normalization is wrong ({error})") from error
    # A text model takes tokens as they are, as in training.
    plain = normalization == Normalization() or models.reads_tokens(name)
    options = about.get("options") or {}
    if not isinstance(options, Mapping) or not all(isinstance(o, str) for o in options):
        raise InputError(f"the model's options are {shown(options)}")
    options = {option: _hashable(value) for option, value in options.items()}
    if conv is not None and "conv" in models.options_of(name):
        options["conv"] = conv
    try:
        return models.build(
            name,
            input_shape=shape,
            num_classes=classes,
            preprocess=None if plain else normalization,
            **options,
        )
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"the model's options are wrong ({error})") from error


def graph_of(saved: SavedModel) -> Graph:
    """Returns a model as a graph, norms folded into the layers before them.

    Raises:
      InputError: for a model that has no such form, `TextLSTM` for instance.
    """
    about = saved.about
    if LAYERS in about:
        return nodes.from_description(about[LAYERS], saved.variables)
    shape, dtype = tuple(about["input_shape"]), np.dtype(about["input_dtype"])
    forward = network(about, conv="xla").apply
    try:
        return simplify(trace(forward, saved.variables, shape, dtype))
    except UnknownOperationError as error:
        raise InputError(
            f"the model {about['model']!r} has no form of dense and convolutional "
            f"layers ({error}): use the format safetensors, npz or stablehlo"
        ) from error


def compacted(saved: SavedModel) -> SavedModel:
    """Returns a smaller dense network with the same outputs, see `graph.compaction`.

    Raises:
      InputError: for a model that is no graph of dense and convolutional layers.
    """
    graph = compact(graph_of(saved))
    about = {k: v for k, v in saved.about.items() if k != "normalization"}
    about[LAYERS] = nodes.describe(graph)
    return saved_model(nodes.variables(graph), about)


def portable(saved: SavedModel) -> ApplyFn:
    """Returns the forward pass in XLA's own convolutions, for other machines."""
    if LAYERS in saved.about:
        graph = graph_of(saved)
        return _model_of(graph, conv="xla").apply
    return network(saved.about, conv="xla").apply


def _model_of(graph: Graph, conv: str = "auto") -> Model:
    """Returns a graph as a model; its first variables are those it has."""
    bare = tuple(node._replace(arrays={}) for node in graph)

    def apply(
        variables: Variables, x: jax.Array, **_: Any
    ) -> tuple[jax.Array, Variables]:
        return nodes.forward(bare, variables, x, conv=conv), {}

    values = nodes.variables(graph)
    return Model(init=lambda key: jax.tree.map(jnp.asarray, values), apply=apply)


def _hashable(value: Any) -> Any:
    """Returns a list of JSON as a tuple, which networks take."""
    return tuple(map(_hashable, value)) if isinstance(value, list) else value


def _mask(name: str, leaf: np.ndarray) -> np.ndarray:
    """Returns the entries of a leaf that a file has to keep."""
    if name.startswith("params/") and leaf.dtype.kind == "f":
        return np.asarray((leaf != 0) | np.signbit(leaf))  # so that -0.0 survives
    return np.ones(leaf.shape, bool)


def _checked_sizes(about: Mapping[str, Any]) -> tuple[tuple[int, ...], int]:
    """Returns the shape of an example and the length of the output."""
    shape, classes = about.get("input_shape"), about.get("num_classes")
    if not isinstance(shape, list | tuple) or not all(map(_is_size, [*shape, classes])):
        raise InputError("the description lacks the shape of inputs or outputs")
    if not shape or math.prod(shape) >= MOST_NUMBERS:
        raise InputError(f"the description has inputs of the shape {shown(shape)}")
    return tuple(shape), int(classes or 0)


def _check_labels(labels: Any, classes: int) -> None:
    """Checks what classes are called: a text or a whole number each, if anything."""
    if labels is None:
        return
    one_kind = isinstance(labels, list | tuple) and (
        all(type(label) is str for label in labels)
        or all(type(label) is int and abs(label) < 2**63 for label in labels)
    )
    if not one_kind or len(labels) != classes:
        raise InputError(f"the model's labels are {shown(labels)}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and 0 < value < MOST_NUMBERS


def _checked_dtype(dtype: Any) -> str:
    try:
        known = np.dtype(dtype) if isinstance(dtype, str) else np.dtype(object)
    except TypeError:
        known = np.dtype(object)
    if known.kind not in "iuf" or known.itemsize > 4:
        raise InputError(f"the model's input_dtype is {shown(dtype)}")
    return str(known)


def _check_variables(model: Model, variables: Variables) -> None:
    """Checks that a network has variables of these names and shapes."""
    try:
        expected = jax.eval_shape(model.init, jax.random.key(0))
    except Exception as error:  # of shapes and options that no network can have
        raise InputError(f"the description fits no network ({error})") from error
    difference = trees.first_difference(expected, variables)
    if difference is not None:
        name, wanted, given = difference
        raise InputError(
            f"{name} has shape {given or 'none'}, in the network that the description "
            f"names {wanted or 'none'}"
        )
