"""FedAvg as a researcher would write it in an afternoon, without this library."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from fedsparsify_jax.types import ClientData

WIDTHS = (784, 128, 128, 10)


def plain_fedavg(
    *, clients: int, epochs: int, batch: int, rate: float
) -> tuple[Callable[..., Any], Any]:
    """One jitted round, clients vmapped on one device, and the initial weights.

    Equal clients are assumed: no padding, no masks, no reporting. The last short batch
    is dropped, which is slightly less work than the library's.
    """

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(WIDTHS) - 1)
        glorot = jax.nn.initializers.glorot_uniform()
        return [
            (glorot(k, (n, m)), jnp.zeros(m))
            for k, n, m in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=True)
        ]

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        h = x.reshape(len(x), -1).astype(jnp.float32) / 256.0
        for w, b in params[:-1]:
            h = jax.nn.relu(h @ w + b)
        w, b = params[-1]
        logp = jax.nn.log_softmax(h @ w + b)
        return -jnp.mean(logp[jnp.arange(len(y)), y])

    def train(params: Any, key: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        steps = len(y) // batch

        def epoch(params: Any, key: jax.Array) -> tuple[Any, None]:
            order = jax.random.permutation(key, len(y))[: steps * batch]

            def step(params: Any, index: jax.Array) -> tuple[Any, None]:
                grads = jax.grad(loss)(params, x[index], y[index])
                return jax.tree.map(lambda p, g: p - rate * g, params, grads), None

            return jax.lax.scan(step, params, order.reshape(steps, batch))[0], None

        return jax.lax.scan(epoch, params, jax.random.split(key, epochs))[0]

    def round_(key: jax.Array, params: Any, data: ClientData) -> Any:
        keys = jax.random.split(key, clients)
        local = jax.vmap(train, (None, 0, 0, 0))(params, keys, data.x, data.y)
        weights = data.sizes / jnp.sum(data.sizes)
        return jax.tree.map(lambda p: jnp.tensordot(weights, p, 1), local)

    return jax.jit(round_, donate_argnums=1), init(jax.random.key(0))
