"""True epochs, short batches, exhausted clients, optimizer state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedsparsify_jax import algorithms, masks
from fedsparsify_jax.aggregation import weighted_mean
from fedsparsify_jax.method import Context, Method
from fedsparsify_jax.training.local import batch_loss, epoch_order, local_training
from fedsparsify_jax.types import ClientData

METHOD = Method(aggregate=lambda up, c: (weighted_mean(up.variables, up.weights), {}))


def scalar_model(variables, x, *, train=False, key=None, valid=None):
    return variables["params"]["w"] * x[:, 0], {}


def half_square(outputs, y):
    return 0.5 * (outputs - y) ** 2


def train_one(
    x, y, count, *, epochs=1, steps=None, batch_size=2, optimizer=None, apply=None
):
    """Trains w from 0 on one client; returns the result."""
    optimizer = optimizer or optax.sgd(0.1)
    train = local_training(
        batch_loss(apply or scalar_model, half_square),
        optimizer,
        METHOD,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
    )
    variables = {"params": {"w": jnp.float32(0)}}
    kept = masks.ones_like(variables)
    data = ClientData(
        jnp.array(x, jnp.float32)[:, None], jnp.array(y, jnp.float32), jnp.int32(count)
    )
    context = Context(jnp.int32(1), jnp.float32(0), variables, kept, (), ())
    state = optimizer.init(variables["params"])
    return jax.jit(train)(jax.random.key(0), variables, kept, state, data, context)


@pytest.mark.parametrize("count", [0, 1, 3, 8])
def test_epoch_order_is_a_permutation_of_the_real_examples(count):
    draw = jax.vmap(lambda key: epoch_order(key, jnp.int32(count), 8))
    orders = np.asarray(draw(jax.random.split(jax.random.key(1), 50)))
    for order in orders:
        assert sorted(order[:count]) == list(range(count))
    if count == 8:
        assert len({tuple(order) for order in orders}) == 50


def test_epoch_order_is_uniform():
    draw = jax.vmap(lambda key: epoch_order(key, jnp.int32(3), 5)[:3])
    orders = np.asarray(draw(jax.random.split(jax.random.key(2), 6000)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6
    # chi-square with 5 degrees of freedom: 20.5 is its 99.9th percentile
    assert np.sum((counts - 1000) ** 2 / 1000) < 20.5


def test_every_example_is_visited_once_an_epoch():
    # The gradient of w.x - y at rate r with x = 0 is 0, so count visits by a statistic.
    def visits(variables, x, *, train=False, key=None, valid=None):
        seen = variables["stats"]["seen"]
        rows = jnp.where(valid, x[:, 0].astype(jnp.int32), 7)
        return x[:, 0] * 0, {"stats": {"seen": seen.at[rows].add(1)}}

    train = local_training(
        batch_loss(visits, half_square),
        optax.sgd(0.1),
        METHOD,
        epochs=3,
        batch_size=2,
    )
    variables = {
        "params": {"w": jnp.float32(0)},
        "stats": {"seen": jnp.zeros(8, jnp.int32)},
    }
    kept = masks.ones_like(variables)
    data = ClientData(jnp.arange(7.0)[:, None], jnp.zeros(7), jnp.int32(5))
    context = Context(jnp.int32(1), jnp.float32(0), variables, kept, (), ())
    state = optax.sgd(0.1).init({"params": variables["params"]})
    done = train(jax.random.key(0), variables, kept, state, data, context)
    # 5 real examples thrice; slot 7 collects the padding: 8 slots, 3 of them, thrice,
    # but the fourth batch has no real example at all and changes nothing.
    assert done.variables["stats"]["seen"].tolist() == [3, 3, 3, 3, 3, 0, 0, 3]


def test_the_short_batch_is_weighted_by_its_real_size():
    # One example in a batch of two: the mean is over one.
    done = train_one([1.0, 0.0], [1.0, 0.0], count=1)
    assert float(done.variables["params"]["w"]) == pytest.approx(0.1)
    # Three equal examples in batches of two: two steps, each with the full gradient.
    done = train_one([1.0] * 3, [1.0] * 3, count=3)
    assert float(done.variables["params"]["w"]) == pytest.approx(0.1 + 0.1 * 0.9)
    # The loss is the mean over examples: two at w = 0, one at w = .1.
    assert float(done.loss) == pytest.approx((2 * 0.5 + 0.5 * 0.9**2) / 3)


@pytest.mark.parametrize(
    "optimizer", [optax.sgd(0.1, momentum=0.9), optax.adamw(0.1), optax.adam(0.1)]
)
def test_steps_without_examples_change_nothing(optimizer):
    exact = train_one([1.0, 2.0], [1.0, 1.0], 2, optimizer=optimizer)
    padded = train_one(
        [1.0, 2.0, 1e30, 1e30, 1e30, 1e30], [1.0, 1.0, 9, 9, 9, 9], 2,
        optimizer=optimizer,
    )  # fmt: skip
    same = jax.tree.map(
        lambda a, b: np.array_equal(a, b), exact._asdict(), padded._asdict()
    )
    assert all(jax.tree.leaves(same))


def test_a_client_without_examples_returns_the_model():
    done = train_one([5.0, 5.0], [5.0, 5.0], count=0)
    assert float(done.variables["params"]["w"]) == 0.0
    assert float(done.loss) == 0.0


def test_the_kept_optimizer_state_is_the_clients_own(clients):
    def play(kind):
        algorithm = algorithms.fedavg(
            lambda v, x, **_: (x @ v["params"]["w"], {}),
            momentum=0.9,
            optimizer_state=kind,
            num_clients=4,
            participation=0.5,
            local_epochs=1,
        )
        state = algorithm.init(jax.random.key(0), {"params": {"w": jnp.zeros((5, 3))}})
        return algorithm, state, jax.jit(algorithm.step)

    _, state, step = play("kept")
    new, info = step(jax.random.key(1), state, clients)
    (trace,) = [leaf for leaf in jax.tree.leaves(new.clients) if leaf.ndim == 3]
    moved = np.abs(np.asarray(trace)).sum(axis=(1, 2)) > 0
    assert sorted(np.flatnonzero(moved)) == sorted(info.cohort.tolist())
    _, state, _ = play("fresh")
    assert not jax.tree.leaves(state.clients)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_epochs": 0}, "epochs is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"optimizer_state": "old"}, "unknown optimizer_state"),
        ({"participation": 0.0, "num_clients": 4}, "participation is 0"),
        ({"participation": 0.1, "num_clients": 4}, "selects nobody"),
    ],
)
def test_bad_options_are_refused_when_building(options, message):
    with pytest.raises(ValueError, match=message):
        algorithms.fedavg(scalar_model, **options)


def test_bad_states_and_data_are_refused(clients):
    algorithm = algorithms.fedavg(
        scalar_model, optimizer_state="kept", momentum=0.5, num_clients=None
    )
    with pytest.raises(ValueError, match="num_clients is needed"):
        algorithm.init(jax.random.key(0), {"params": {"w": jnp.float32(0)}})
    with pytest.raises(ValueError, match="dict of collections"):
        algorithm.init(jax.random.key(0), {"w": jnp.float32(0)})
    algorithm = algorithms.fedavg(scalar_model, num_clients=3)
    state = algorithm.init(jax.random.key(0), {"params": {"w": jnp.float32(0)}})
    with pytest.raises(ValueError, match="num_clients is 3, the data has 4"):
        algorithm.step(jax.random.key(1), state, clients)
    bad = clients._replace(y=clients.y[:, :-1])
    with pytest.raises(ValueError, match="client 0 has 7 examples in a row of 6"):
        algorithms.fedavg(scalar_model).step(jax.random.key(1), state, bad)


RAGGED = np.arange(1.0, 8), np.arange(2.0, 9)


@pytest.mark.parametrize("count", [1, 4, 5, 7])
def test_as_many_steps_as_epochs_have_give_the_same_bits(count):
    momentum = optax.sgd(0.01, momentum=0.9)
    by_epochs = train_one(*RAGGED, count, epochs=3, optimizer=momentum)
    steps = 3 * -(-count // 2)
    by_steps = train_one(*RAGGED, count, steps=steps, optimizer=momentum)
    for one, other in zip(*map(jax.tree.leaves, (by_epochs, by_steps)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_short_clients_make_as_many_steps_as_others():
    """One example, x = y = 1: w goes from 0 to 1 - 0.9^n in n steps."""
    trained = train_one([1.0, 0, 0], [1.0, 0, 0], 1, steps=5)
    assert float(trained.variables["params"]["w"]) == pytest.approx(1 - 0.9**5)
    losses = [0.5 * 0.9 ** (2 * n) for n in range(5)]
    assert float(trained.loss) == pytest.approx(np.mean(losses))


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (0.3, 1), (0.1, 1), (1.5, 6)])
def test_half_an_epoch_is_half_of_its_steps(epochs, steps):
    """Seven examples in batches of two: four steps an epoch."""
    by_epochs = train_one(*RAGGED, 7, epochs=epochs)
    by_steps = train_one(*RAGGED, 7, steps=steps)
    assert by_epochs.variables["params"]["w"] == by_steps.variables["params"]["w"]
    assert by_epochs.loss == by_steps.loss
