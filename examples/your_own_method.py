"""A method of your own: FedSparsify that prunes what moved least, under FedYogi.

A `Method` is a record of pure functions; what is not named does nothing. The steps of
the server combine by `chain`, and every option of the engine works at once.
"""

import jax
import jax.numpy as jnp

from fedsparsify_jax import data, metrics, models, schedules
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.algorithms.fedopt import server_step
from fedsparsify_jax.engine import engine
from fedsparsify_jax.method import Method, chain
from fedsparsify_jax.training.losses import cross_entropy

ROUNDS = 30


def movement(variables, context):
    """Scores every weight by its distance from the first model, the purge's state."""
    return jax.tree.map(lambda w, first: abs(w - first), variables, context.server)


purge = purge_by(
    movement, init=lambda variables, masks: jax.tree.map(jnp.copy, variables)
)
method = Method(
    aggregate("mean"),
    schedules.polynomial(0.9, end=ROUNDS),
    server=chain(server_step("yogi"), purge),
)

digits = data.load("digits")
clients = data.stack(digits.train, data.iid(digits.train.y, num_clients=10, seed=0))
model = models.build(
    "mlp", input_shape=(8, 8), num_classes=10, preprocess=digits.normalization
)
algorithm = engine(
    model.apply, method, learning_rate=0.1, participation=0.5, server_ema=0.8
)
state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
step = jax.jit(algorithm.step)
for t in range(ROUNDS):
    state, info = step(jax.random.fold_in(jax.random.key(2), t), state, clients)
pruned = algorithm.model(state)  # the moving average, under the masks
test = metrics.evaluate(model.apply, cross_entropy, pruned, digits.test)
print(f"{info.sparsity:.0%} pruned, accuracy {100 * test.metric:.0f} %")
