"""A hand-written FedAvg in JAX, clients vmapped on one device; see `plain`."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import work

sys.path.append(str(Path(__file__).resolve().parent.parent))

from plain import plain_fedavg  # found through the line above

from fedsparsify_jax.types import ClientData


def main() -> None:
    turns = work.Turns()
    step, params = plain_fedavg(
        clients=work.CLIENTS, epochs=work.EPOCHS, batch=work.BATCH, rate=work.RATE
    )
    x, y = map(jnp.asarray, work.clients())
    clients = ClientData(x, y, jnp.full(work.CLIENTS, work.EXAMPLES, jnp.int32))
    for t in range(turns.rounds):
        turns.wait()
        params = step(jax.random.fold_in(jax.random.key(3), t), params, clients)
        jax.block_until_ready(params)
    turns.finish([(np.asarray(w), np.asarray(b)) for w, b in params])


if __name__ == "__main__":
    main()
