"""Algorithms whose server purges by a criterion and a pattern."""

from collections.abc import Callable, Mapping
from typing import Unpack

import jax

from fedsparsify_jax import trees
from fedsparsify_jax.algorithms._shared import criteria
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import Method
from fedsparsify_jax.models.adapters.layers import layers_of
from fedsparsify_jax.models.adapters.norms import norms_behind
from fedsparsify_jax.pruning import patterns
from fedsparsify_jax.types import (
    ApplyFn,
    ClientData,
    Cohort,
    Criterion,
    FederatedAlgorithm,
    Key,
    RoundInfo,
    Scope,
    State,
    Variables,
)


def purged(
    apply_fn: ApplyFn,
    method: Method,
    *,
    criterion: Criterion,
    pattern: str,
    scope: Scope,
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds the algorithm of a method whose server purges after every merge.

    Args:
      apply_fn: the model's forward pass.
      method: without a server's step.
      criterion: importance of a weight, see `criteria`.
      pattern: of what is pruned, see `patterns.selector`; the output layer keeps all
        its channels, and a norm loses those of the layer in front of it.
      scope: what shares a threshold.
      **options: see `engine.options.Options`.

    Raises:
      ValueError: for an unknown criterion or pattern, or a scope that the pattern has
        no use for.
    """

    def build(
        spared: tuple[str, ...] = (), norms: Mapping[str, str] | None = None
    ) -> FederatedAlgorithm:
        select = patterns.selector(
            pattern,
            scope=scope,
            prunable=method.prunable,
            spared=spared,
            norms=norms,
        )
        by_channel = pattern == patterns.CHANNEL
        return engine(
            apply_fn,
            criteria.purging(method, criterion, select, squared=by_channel),
            **options,
        )

    if pattern != patterns.CHANNEL:
        return build()
    return _knowing_layers(apply_fn, build)


def output_layers(
    apply_fn: ApplyFn, variables: Variables, x: jax.Array | jax.ShapeDtypeStruct
) -> tuple[str, ...]:
    """Returns the paths of the layers whose channels are the model's outputs.

    In a linen network the last layer is. In any other model these are all layers with
    as many channels as there are outputs, for nothing says which is the last.

    Args:
      apply_fn: the model's forward pass.
      variables: its variables, or their shapes.
      x: raw inputs ``[B, ...]``, or their shape and dtype.

    Example:
      >>> from fedsparsify_jax import models
      >>> model = models.build("mlp", input_shape=(4,), num_classes=2, hidden=(2,))
      >>> x = jax.ShapeDtypeStruct((1, 4), "float32")
      >>> output_layers(model.apply, model.init(jax.random.key(0)), x)
      ('params/Dense_1',)
    """
    layers = [
        layer
        for layer in layers_of(apply_fn, variables, x)
        if layer.kind not in ("Dropout", "BatchNorm")
    ]
    if layers:
        return ("/".join(("params", *layers[-1].path)),)
    outputs, _ = jax.eval_shape(apply_fn, variables, x)
    width = outputs.shape[1:][-1:]
    return tuple(
        name.rpartition("/")[0]
        for name, leaf in trees.named_leaves(variables)
        if len(leaf.shape) >= 2 and leaf.shape[-1:] == width
    )


def _knowing_layers(
    apply_fn: ApplyFn,
    build: Callable[[tuple[str, ...], Mapping[str, str]], FederatedAlgorithm],
) -> FederatedAlgorithm:
    """Builds an algorithm whose rounds are told of the outputs and of the norms.

    That takes the shape of an example, which a round knows when it is traced.
    """
    plain = build((), {})
    assert plain.cohorts is not None

    def told(state: State, data: ClientData) -> FederatedAlgorithm:
        one = jax.ShapeDtypeStruct((1, *data.x.shape[2:]), data.x.dtype)
        network = (apply_fn, state.variables, one)
        return build(output_layers(*network), norms_behind(*network))

    def step(key: Key, state: State, clients: ClientData) -> tuple[State, RoundInfo]:
        return told(state, clients).step(key, state, clients)

    def run(
        key: Key, state: State, cohort: Cohort, setup_clients: Cohort | None = None
    ) -> tuple[State, RoundInfo]:
        cohorts = told(state, cohort.data).cohorts
        assert cohorts is not None
        return cohorts.run(key, state, cohort, setup_clients)

    cohorts = plain.cohorts._replace(run=run)
    return plain._replace(step=step, cohorts=cohorts, halves=None)
