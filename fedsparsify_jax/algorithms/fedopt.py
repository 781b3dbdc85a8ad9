"""FedOpt: the server treats the mean update as a gradient (FedAdam, FedYogi, ...).

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan, *Adaptive Federated
Optimization*, ICLR 2021, arXiv 2003.00295, algorithms 1 and 2.

In round t the clients train as in FedAvg. Then, over the parameters,

    g_t      =  w_t - sum_k n_k w_k / sum_k n_k          (the pseudo-gradient)
    w_{t+1}  =  server optimizer's step from w_t along -g_t

    sgd       w - eta g                                   (eta = 1 is FedAvg)
    momentum  m <- 0.9 m + g;  w - eta m                  (FedAvgM)
    adam      m <- 0.9 m + 0.1 g;  v <- 0.99 v + 0.01 g^2;  w - eta m / (sqrt(v) + tau)
    yogi      as adam with v <- v - 0.01 g^2 sign(v - g^2)
    adagrad   v <- v + g^2;  w - eta g / (sqrt(v) + tau)

with tau = 0.001, m = 0 and v = tau^2 at first, and no correction of their bias. Running
statistics are averaged as in FedAvg. The rates are defaults; the paper tunes them for
every task.

Deviations: the mean is weighted by examples (the paper's main text averages plainly).

Checked against: the paper's algorithm 2 in NumPy, to 3e-7, in
tests/algorithms/test_fedprox_and_fedopt.py.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Unpack

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax.aggregation.merges import ValueMerge
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine import EngineOptions, engine
from fedsparsify_jax.method import (
    Context,
    Method,
    ServerTransform,
    Uploads,
    no_projection,
)
from fedsparsify_jax.types import (
    ApplyFn,
    FederatedAlgorithm,
    Key,
    Masks,
    PyTree,
    ServerOptimizer,
    Variables,
)

_TAU = 1e-3


class _Moments(NamedTuple):
    m: PyTree
    v: PyTree


def _adaptive(
    rate: ArrayLike,
    second: Callable[[jax.Array, jax.Array], jax.Array],
    first: tuple[float, float] = (0.9, 0.1),
) -> optax.GradientTransformation:
    """Builds ``-rate m / (sqrt(v) + tau)``, with ``v <- second(v, g^2)``.

    Optax's own adam and yogi correct the bias of m and v and start them differently.
    """

    def init(params: PyTree) -> _Moments:
        m = jax.tree.map(jnp.zeros_like, params)
        return _Moments(m, jax.tree.map(lambda w: jnp.full_like(w, _TAU**2), params))

    def update(
        gradients: PyTree, state: _Moments, params: PyTree = None
    ) -> tuple[PyTree, _Moments]:
        del params
        m = jax.tree.map(lambda m, g: first[0] * m + first[1] * g, state.m, gradients)
        v = jax.tree.map(lambda v, g: second(v, g * g), state.v, gradients)
        updates = jax.tree.map(lambda m, v: -(rate * m) / (jnp.sqrt(v) + _TAU), m, v)
        return updates, _Moments(m, v)

    return optax.GradientTransformation(init, update)


def _adam(rate: ArrayLike) -> optax.GradientTransformation:
    return _adaptive(rate, lambda v, square: 0.99 * v + 0.01 * square)


def _yogi(rate: ArrayLike) -> optax.GradientTransformation:
    return _adaptive(rate, lambda v, sq: v - 0.01 * sq * jnp.sign(v - sq))


def _adagrad(rate: ArrayLike) -> optax.GradientTransformation:
    return _adaptive(rate, lambda v, square: v + square, first=(0.0, 1.0))


# name: (learning rate by default, optimizer for a learning rate)
_OPTIMIZERS: dict[str, tuple[float, Any]] = {
    "sgd": (1.0, optax.sgd),
    "momentum": (1.0, lambda rate: optax.sgd(rate, momentum=0.9)),
    "adam": (0.01, _adam),
    "yogi": (0.01, _yogi),
    "adagrad": (0.1, _adagrad),
}


def _server_optimizer(
    chosen: ServerOptimizer | optax.GradientTransformation, rate: ArrayLike | None
) -> optax.GradientTransformation:
    if not isinstance(chosen, str):
        if rate is not None:
            raise ValueError(
                "server_learning_rate goes with the name of an optimizer; "
                "an Optax transformation has its own"
            )
        return chosen
    if chosen not in _OPTIMIZERS:
        raise ValueError(
            f"unknown server_optimizer {chosen!r}: one of {', '.join(_OPTIMIZERS)}, "
            "or an Optax transformation"
        )
    default, build = _OPTIMIZERS[chosen]
    return build(default if rate is None else rate)


def server_step(
    optimizer: ServerOptimizer | optax.GradientTransformation = "adam",
    learning_rate: ArrayLike | None = None,
) -> ServerTransform:
    """Builds the server's step along the pseudo-gradient, for any method.

    Its state is the optimizer's. In a `method.chain` before a purge it gives a sparse
    method FedOpt's server.

    Args:
      optimizer: see `fedopt`.
      learning_rate: eta, of an optimizer given by name; may be traced.

    Raises:
      ValueError: for an unknown name, or a learning rate beside a transformation.
    """
    transform = _server_optimizer(optimizer, learning_rate)

    def init(variables: Variables, masks: Masks) -> PyTree:
        return transform.init(variables["params"])

    def update(
        key: Key, variables: Variables, masks: Masks, uploads: Uploads, context: Context
    ) -> tuple[Variables, Masks, PyTree]:
        start = context.variables["params"]
        pseudo_gradient = jax.tree.map(jnp.subtract, start, variables["params"])
        updates, state = transform.update(pseudo_gradient, context.server, start)
        params = optax.apply_updates(start, updates)
        return variables | {"params": params}, masks, state

    return ServerTransform(init, update)


def fedopt(
    apply_fn: ApplyFn,
    *,
    server_optimizer: ServerOptimizer | optax.GradientTransformation = "adam",
    server_learning_rate: ArrayLike | None = None,
    merge: str | ValueMerge = "mean",
    **options: Unpack[EngineOptions],
) -> FederatedAlgorithm:
    """Builds FedOpt.

    Args:
      apply_fn: the model's forward pass.
      server_optimizer: ``"adam"``, ``"yogi"``, ``"adagrad"``, ``"momentum"``, ``"sgd"``
        or any Optax transformation; its state is ``State.server``.
      server_learning_rate: eta, of an optimizer given by name; may be traced. By
        default 0.01 for adam and yogi, 0.1 for adagrad, 1 for momentum and sgd.
      merge: how the server merges the clients' models: a name of `merges.NAMES` or a
        function of that signature.
      **options: see `engine.options.Options`.

    Example:
      With the ``clients`` and the ``model`` of the README's ten lines:

      >>> algorithm = fedopt(model.apply, server_optimizer="yogi", local_epochs=1)
      >>> state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
      >>> state, info = jax.jit(algorithm.step)(jax.random.key(2), state, clients)
      >>> int(state.round), float(info.sparsity)
      (1, 0.0)
    """
    method = Method(
        aggregate=aggregate(merge),
        server=server_step(server_optimizer, server_learning_rate),
        project=no_projection,
    )
    return engine(apply_fn, method, **options)
