"""Examples of the clients' that one machine calibrates a finished model on."""

import jax
import jax.numpy as jnp

from fedsparsify_jax.types import ClientData, Key


def drawn(key: Key, clients: ClientData, number: int) -> ClientData:
    """Draws examples from all clients', without replacement: data of one client.

    Args:
      key: of the draw.
      clients: ``[N, M, ...]``.
      number: how many; all of them if there are fewer.

    Example:
      >>> x = jnp.array([[1.0, 2.0, 99.0], [3.0, 99.0, 99.0]])
      >>> clients = ClientData(x, x, jnp.array([2, 1]))
      >>> data = drawn(jax.random.key(0), clients, 5)
      >>> int(data.sizes), sorted(data.x[:3].tolist())
      (3, [1.0, 2.0, 3.0])
    """
    total, longest = clients.y.shape[:2]
    real = jnp.arange(longest)[jnp.newaxis] < clients.sizes[:, None]
    # A bit less than there is, so that padding comes behind the largest draw.
    draws = jax.random.bits(key, (total * longest,)) >> 1
    draws = jnp.where(jnp.ravel(real), draws, jnp.uint32(0xFFFFFFFF))
    first = jnp.argsort(draws)[: min(number, total * longest)]
    size = jnp.minimum(jnp.sum(clients.sizes), len(first)).astype(jnp.int32)
    first = jnp.where(jnp.arange(len(first)) < size, first, first[0])
    place = first // longest, first % longest
    return ClientData(clients.x[place], clients.y[place], size)
