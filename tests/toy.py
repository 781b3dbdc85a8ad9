"""Federations small enough for tests, and their rounds.

Rounds of the toy can be worked out by hand. A client has one target y; its loss is half
the square of w - y, summed over the entries of w, so that a step of rate r from w gives
w - r (w - y).
"""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import aggregation, algorithms, models
from fedsparsify_jax.engine import engine
from fedsparsify_jax.method import (
    Aggregate,
    Context,
    Method,
    ServerTransform,
    Uploader,
    Uploads,
    no_state,
    stacked,
)
from fedsparsify_jax.types import ClientData

RATE = 0.1
START = {"params": {"w": jnp.array([2.0, -4.0])}}
W = np.array([2.0, -4.0])
# 39 parameters, for the clients of conftest
MLP = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(4,))

SMALL = {"learning_rate": 0.3, "local_epochs": 1, "batch_size": 4, "num_clients": 4}
_SPARSE = {"final_sparsity": 0.6, "rounds": 3, **SMALL}
# Two ways to sparse networks of three rounds, for what goes around any algorithm.
PURGED = {
    "global": lambda **more: algorithms.fedsparsify_global(
        MLP.apply, **_SPARSE, **more
    ),
    # Its masks grow again, and it prunes before round 1.
    "feddst": lambda **more: algorithms.feddst(
        MLP.apply, interval=1, **_SPARSE, **more
    ),
}


def linear(start):
    """x @ w without a bias, from `start`."""
    return models.from_functions(
        lambda key: {"w": jnp.asarray(start)}, lambda params, x: x @ params["w"]
    )


def clients(*targets):
    """Clients with one example each, whose target is a number or a row."""
    number = len(targets)
    y = jnp.asarray(targets, jnp.float32)[:, None]
    return ClientData(jnp.zeros((number, 1, 1)), y, jnp.ones(number, jnp.int32))


DATA = clients(1.0, 3.0)


def apply_fn(variables, x, *, train=False, key=None, valid=None):
    """Answers with the weights, whatever the input."""
    w = variables["params"]["w"]
    return jnp.broadcast_to(w, (len(x), *w.shape)), {}


def half_square(outputs, y):
    """Half the squared distance from the target, which may be one number or a row."""
    y = y[:, None] if y.ndim == 1 else y
    return 0.5 * jnp.sum((outputs - y) ** 2, axis=-1)


def squared_error(outputs, y):
    """The squared distance from the target, which may be one number or a row."""
    return jnp.sum((outputs - y) ** 2, axis=tuple(range(1, y.ndim)))


def stepped(w, target):
    """The weights after one step of the toy's training."""
    return w - RATE * (w - target)


def weights(state):
    return np.asarray(state.variables["params"]["w"])


@stacked
def mean(uploads, context):
    """The merge of FedAvg, of all uploads at once."""
    return aggregation.weighted_mean(uploads.variables, uploads.sizes), context.masks


def sending(send, init=no_state):
    return Uploader(init, send)


def serving(update, init=no_state):
    return ServerTransform(init, update)


def build(method: Method, **options):
    """The algorithm of a method on the toy: one epoch of batches of one."""
    plain = {
        "learning_rate": RATE,
        "local_epochs": 1,
        "batch_size": 1,
        "loss_fn": half_square,
        "num_clients": 2,
    }
    return engine(apply_fn, method, **plain | options)


def round_keys(rounds, seed=1):
    """Keys that a scan over the rounds can make as well."""
    return [jax.random.fold_in(jax.random.key(seed), t) for t in range(rounds)]


def run_rounds(step, state, clients, keys):
    """All states, the first included, and the infos of a round a key.

    States are NumPy arrays, so that a step may donate what it is passed.
    """
    states, infos = [jax.tree.map(np.array, state)], []
    for key in keys:
        state, info = step(key, state, clients)
        states.append(jax.tree.map(np.array, state))
        infos.append(info)
    return states, infos


def run(method: Method, rounds=1, **options):
    """Runs rounds; the state must never change its shapes. Algorithm, state, info."""
    algorithm = build(method, **options)
    state, step = algorithm.init(jax.random.key(0), START), jax.jit(algorithm.step)
    states, infos = run_rounds(step, state, DATA, round_keys(rounds))
    for old, new in itertools.pairwise(states):
        chex.assert_trees_all_equal_shapes_and_dtypes(new, old)
    return algorithm, states[-1], infos[-1]


def uploads_of(variables, masks, sizes):
    """Uploads of clients 0 to K - 1."""
    sizes = jnp.asarray(sizes, jnp.float32)
    return Uploads(
        variables=variables,
        masks=masks,
        extra=(),
        ids=jnp.arange(len(sizes)),
        sizes=sizes,
        shares=aggregation.shares(sizes),
    )


def context_of(variables, masks=None, server=()):
    """The context of round 1."""
    return Context(jnp.int32(1), jnp.float32(0), variables, masks, server, ())


def merged(aggregate: Aggregate, uploads: Uploads, context: Context):
    """The merge of uploads that are all there."""
    return aggregate.merge(aggregate.sums(uploads, context), uploads, context)
