"""Low-rank adapters around any model: the base stays, and small factors are trained.

Hu et al., *LoRA: Low-Rank Adaptation of Large Language Models*, ICLR 2022, arXiv
2106.09685: a kernel W becomes W + (alpha / r) A B, where A ``[in, r]`` starts at random
and B ``[r, out]`` at zero, so that the first model is the base, exactly. In a
federation only the factors are trained, sent, merged and purged.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import masks, trees
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.models.adapters.model import Model
from fedsparsify_jax.types import Key, Prunable, PyTree, Variables

FACTORS = ("lora_a", "lora_b")
"""Names of A and B, below the path of their kernel."""


def lora(
    model: Model,
    base: Variables,
    *,
    rank: int = 8,
    alpha: float = 16.0,
    adapted: Prunable | None = None,
) -> Model:
    """Returns a model of low-rank adapters, with a trained model as its constant base.

    Its ``params`` are A and B of every kernel that is adapted, two leaves where the
    kernel was. A convolution's kernel ``[*window, I, O]`` counts as ``[in, O]`` with
    all taps of all channels in its rows. All that is not adapted stays as in the base,
    biases and norm parameters too; other collections (batch statistics) start as the
    base's and move as usual. Whole kernels exist inside of a step, one a client that
    is trained at the same time.

    Args:
      model: of `from_linen`, `from_nnx` or any other.
      base: its variables, concrete; they become constants of compiled programs.
      rank: r, columns of A.
      alpha: the factors count alpha / r times.
      adapted: path of a leaf to whether it is adapted; by default kernels, which are
        all matrices and larger arrays but word vectors and learnt positions.

    Returns:
      A model without ``parts``, and not ``sequential``: neither sub-networks nor
      compact forms know of adapters.

    Raises:
      InputError: for a rank below 1, an alpha that is not above 0, parameters that are
        no nested dicts or have no leaf to adapt, or a chosen leaf that is no matrix.

    Example:
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(6,), num_classes=2, hidden=(4,))
      >>> base = model.init(jax.random.key(0))
      >>> adapters = lora(model, base, rank=1)
      >>> variables = adapters.init(jax.random.key(1))
      >>> jax.tree.map(jnp.shape, variables["params"]["Dense_0"])
      {'kernel': {'lora_a': (6, 1), 'lora_b': (1, 4)}}
      >>> x = jnp.ones((3, 6))
      >>> bool((adapters.apply(variables, x)[0] == model.apply(base, x)[0]).all())
      True
    """
    if rank < 1:
        raise InputError(f"rank is {shown(rank)}: it must be at least 1")
    if not alpha > 0:
        raise InputError(f"alpha is {shown(alpha)}: it must be above 0")
    base = jax.tree.map(np.asarray, base)
    _check_dicts(base["params"])
    shapes = _shapes(base["params"], rank, adapted)

    def init(key: Key) -> Variables:
        keys = jax.random.split(key, len(shapes))
        params: PyTree = {}
        for own, (path, (rows, columns)) in zip(keys, shapes.items(), strict=True):
            # Gaussian as in the paper, of the size that keeps the variance of inputs.
            a = jax.random.normal(own, (rows, rank)) / jnp.sqrt(jnp.float32(rows))
            _put(params, path, {FACTORS[0]: a, FACTORS[1]: jnp.zeros((rank, columns))})
        others = {name: tree for name, tree in base.items() if name != "params"}
        return {"params": params, **jax.tree.map(jnp.asarray, others)}

    def apply(
        variables: Variables, x: jax.Array, **flags: Any
    ) -> tuple[jax.Array, Variables]:
        return model.apply(merged(base, variables, alpha=alpha), x, **flags)

    return Model(init=init, apply=apply)


def merged(base: Variables, variables: Variables, *, alpha: float = 16.0) -> Variables:
    """Returns the base with its adapters added: variables of the base's own model.

    Args:
      base: what `lora` was given.
      variables: of the model that it returned, trained for instance.
      alpha: the one of `lora`.

    Example:
      >>> base = {"params": {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}}
      >>> a, b = jnp.array([[1.0], [0.0]]), jnp.array([[0.0, 3.0]])
      >>> pair = {"lora_a": a, "lora_b": b}
      >>> merged(base, {"params": {"w": pair}}, alpha=1.0)["params"]["w"].tolist()
      [[1.0, 4.0], [1.0, 1.0]]
    """

    def add(own: Any, adapters: Any) -> Any:
        if adapters is None:
            return jax.tree.map(jnp.asarray, own)
        if not isinstance(own, Mapping):
            a, b = (adapters[name] for name in FACTORS)
            return own + (alpha / a.shape[-1] * (a @ b)).reshape(own.shape)
        return {name: add(leaf, adapters.get(name)) for name, leaf in own.items()}

    params = add(base["params"], variables["params"])
    return {**base, **variables, "params": params}


def _shapes(
    params: PyTree, rank: int, adapted: Prunable | None
) -> dict[str, tuple[int, int]]:
    """Returns rows and columns of the kernels to adapt, by their paths."""
    shapes = {}
    for path, leaf in trees.named_leaves(params):
        usual = len(leaf.shape) > 1 and masks.kernels_only(f"params/{path}")
        usual = usual and not path.endswith("embedding")
        if not (usual if adapted is None else adapted(f"params/{path}")):
            continue
        if len(leaf.shape) < 2:
            raise InputError(f"params/{path} is no matrix: it cannot be adapted")
        shapes[path] = (int(np.prod(leaf.shape[:-1])), leaf.shape[-1])
    if not shapes:
        raise InputError("the model has no kernel to adapt")
    return shapes


def _check_dicts(params: PyTree) -> None:
    """Checks that parameters are what Flax's are, dicts with names, inside of dicts."""
    copy: dict[str, Any] = {}
    for path, leaf in trees.named_leaves(params):
        _put(copy, path, leaf)
    copied, given = (repr(jax.tree.structure(tree)) for tree in (copy, params))
    if copied != given:
        raise InputError(
            "adapters are for parameters in nested dicts, as Flax has them"
        )


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    """Writes a value at a path of nested dicts, and makes those that are missing."""
    *parents, last = path.split("/")
    for name in parents:
        tree = tree.setdefault(name, {})
    tree[last] = value
