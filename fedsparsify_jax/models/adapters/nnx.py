"""Flax NNX modules as the pair of pure functions that the engine trains."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import nnx
from jax.typing import DTypeLike

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.models.adapters.flags import (
    accepted_flags,
    named_flags,
    tried_flags,
)
from fedsparsify_jax.models.adapters.model import (
    Augment,
    Model,
    Preprocess,
    checked_outputs,
    prepare,
)
from fedsparsify_jax.models.adapters.nnx_structure import (
    KEY,
    maker,
    structure_of,
)
from fedsparsify_jax.models.adapters.precision import lowered, raised
from fedsparsify_jax.types import Key, Variables


def from_nnx(
    module_factory: Callable[..., nnx.Module],
    *,
    preprocess: Preprocess | None = None,
    augment: Augment | None = None,
    compute_dtype: DTypeLike | None = None,
) -> Model:
    """Wraps a Flax NNX module.

    Its ``nnx.Param`` become the collection ``params`` and its ``nnx.BatchStat``
    ``batch_stats``, nested dicts with string keys. Plain arrays among its attributes
    are constants of the model. ``train`` puts the module into training or evaluation
    mode (``module.train()``, ``module.eval()``), and is passed on, under the name that
    ``__call__`` has for it as in `from_linen`, and like ``valid``, if it takes them.
    All random streams of the module start anew from the key of the step.

    Args:
      module_factory: ``nnx.Rngs -> module``, or a class that takes ``rngs``; traced, so
        it must not have side effects.
      preprocess: raw inputs to the network's; by default a conversion to
        float32.
      augment: ``(key, x) -> x`` on raw inputs, in training steps only.
      compute_dtype: of the forward pass and its derivative, see `from_linen`.

    Raises:
      InputError: if the module has no parameters, variables of another kind, or needs
        an argument of another name. ``apply`` raises it for outputs that are not one
        array ``[B, ...]``.

    Example:
      >>> model = from_nnx(lambda rngs: nnx.Linear(3, 2, rngs=rngs))
      >>> variables = model.init(jax.random.key(0))
      >>> jax.tree.map(jax.numpy.shape, variables)
      {'params': {'bias': (2,), 'kernel': (3, 2)}}
      >>> outputs, changed = model.apply(variables, jax.numpy.ones((5, 3)))
      >>> outputs.shape, changed
      ((5, 2), {})
    """
    make = maker(module_factory)
    structure = structure_of(make)
    kinds = set(structure.kinds.values())
    if "params" not in kinds:
        raise InputError("the module has no nnx.Param: there is nothing to train")
    _check_sequentials(structure.module)
    owner = f"module {type(structure.module).__name__}"
    if not callable(structure.module):
        raise InputError(f"{owner} has no __call__: define it, from x to outputs")
    accepted = accepted_flags(_first_layer(structure.module), owner)

    def init(key: Key) -> Variables:
        return structure.collected(make(nnx.Rngs(key)), {"params", "batch_stats"})

    def apply(
        variables: Variables,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        valid: jax.Array | None = None,
    ) -> tuple[jax.Array, Variables]:
        if train and key is None and KEY in kinds:
            raise InputError("the module draws random numbers: training needs a key")
        rows = x
        x, key = prepare(x, key, train=train, preprocess=preprocess, augment=augment)

        variables, x = lowered(variables, x, compute_dtype)

        def attempt(flags: Mapping[str, Any]) -> Any:
            call = functools.partial(structure.evaluate, **flags)
            return jax.eval_shape(call, variables, x)

        takes = tried_flags(attempt, accepted, owner, valid=None)
        module: Any = structure.filled(variables, key, train=train)
        outputs = module(x, **takes.values(train, valid=valid))
        structure.check_constants(module)
        changed = structure.collected(module, {"batch_stats"}) if train else {}
        outputs = checked_outputs(outputs, rows, owner)
        return raised(outputs, compute_dtype), raised(changed, compute_dtype)

    return Model(init=init, apply=apply)


def _first_layer(module: Any) -> Any:
    """Returns what gets the arguments of a module."""
    while isinstance(module, nnx.Sequential) and module.layers:
        module = module.layers[0]
    return module


def _check_sequentials(module: nnx.Module) -> None:
    """Raises InputError for a flag that would stay at its default.

    ``nnx.Sequential`` passes arguments to its first layer only. Layers that keep the
    flag as an attribute, as those of NNX do, need none.
    """
    for _, part in nnx.iter_modules(module):
        layers = list(part.layers)[1:] if isinstance(part, nnx.Sequential) else []
        for layer in filter(callable, layers):
            names = named_flags(layer)
            attributes = vars(layer) if isinstance(layer, nnx.Module) else {}
            if names - {*attributes}:
                raise InputError(
                    f"layer {type(layer).__name__} of an nnx.Sequential takes the "
                    f"argument {min(names)!r}, which that passes to its first layer "
                    "only: call the layers in a module of your own"
                )
