"""One round of FedSparsify-Global from its pieces: tune, merge, purge.

`algorithm.step` does this in one jitted call. Here the clients work one after another
through their half of the round and the server through its own, as machines of a real
federation would, and the model is the same to the last bit.
"""

import jax
import jax.numpy as jnp

from fedsparsify_jax import client_map, data, engine, models, schedules, trees
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.engine import records
from fedsparsify_jax.method import Method
from fedsparsify_jax.pruning import magnitude
from fedsparsify_jax.types import Cohort

digits = data.load("digits")
clients = data.stack(digits.train, data.iid(digits.train.y, num_clients=4, seed=0))
model = models.build("mlp", input_shape=(8, 8), num_classes=10)
method = Method(
    aggregate("mean"),
    schedules.constant(0.5),
    server=purge_by(lambda variables, context: magnitude(variables)),
)
tuning = engine.tuning_of(model.apply, method, engine.resolve({"local_epochs": 1}))
client = jax.jit(engine.client_half(method, tuning))
server = jax.jit(engine.server_half(method))

# The whole round at once, to compare with; one client after another there, too.
algorithm = engine.engine(
    model.apply, method, local_epochs=1, client_map=client_map.chunked(1)
)
state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
whole, _ = jax.jit(algorithm.step)(jax.random.key(2), state, clients)

# The server opens the round: t, s_t, the model and its masks go to the clients.
keys = records.RoundKeys.of(jax.random.key(2))
context = records.open_round(method, state)
members = records.members_of(Cohort(None, clients), context, None, keys.faults)
tasks = records.client_tasks(keys.local, state, Cohort(None, clients), members)

# Tune: every client on its own, from its task alone.
uploads = [client(context, trees.take(tasks, k)) for k in range(4)]
for k, upload in enumerate(uploads):
    print(f"client {k}: loss {upload.loss:.3f}, {upload.bytes_up} bytes")

# Merge and purge: the server has the uploads and no data.
results = jax.tree.map(lambda *rows: jnp.stack(rows), *uploads)
add_up = jax.jit(lambda *arrived: engine.sum_uploads(method.aggregate, *arrived))
sums, results = add_up(context, members, results)
new, info = server(keys.server, state, context, members, sums, results)
same = jax.tree.map(lambda a, b: bool((a == b).all()), new.variables, whole.variables)
print(f"{info.sparsity:.0%} pruned, the bits of step: {all(jax.tree.leaves(same))}")
