"""Private rounds on the toy: their mean, their noise, their masks, their refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import START, W, apply_fn, build, half_square, mean, run, sending, stepped

from fedsparsify_jax import masks, pruning
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.client_map import chunked
from fedsparsify_jax.engine import engine
from fedsparsify_jax.engine.wrappers.attacks import scaling
from fedsparsify_jax.engine.wrappers.private import Privacy, private
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import Method, Setup, Upload, no_clients
from fedsparsify_jax.types import ClientData

MEAN = Method(aggregate("mean"))
NO_NOISE = Privacy(clip_norm=100.0, noise_multiplier=0.0, denominator=2)


def weights(state):
    return np.asarray(state.variables["params"]["w"])


def test_without_noise_and_clipping_it_is_the_plain_mean_of_equal_clients():
    """The toy's clients have one example each, with targets 1 and 3."""
    _, state, _ = run(private(MEAN, NO_NOISE))
    np.testing.assert_allclose(weights(state), stepped(W, 2.0), rtol=1e-6)


def test_clients_count_alike_whatever_their_number_of_examples():
    y = jnp.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]])
    data = ClientData(jnp.zeros((2, 3, 1)), y, jnp.array([1, 3]))
    algorithm = build(private(MEAN, NO_NOISE), batch_size=3)
    state, _ = jax.jit(algorithm.step)(
        jax.random.key(0), algorithm.init(jax.random.key(0), START), data
    )
    np.testing.assert_allclose(weights(state), stepped(W, 2.0), rtol=1e-6)


def test_the_denominator_is_not_the_number_of_those_who_came():
    _, state, _ = run(private(MEAN, NO_NOISE._replace(denominator=8)))
    np.testing.assert_allclose(weights(state), W + (stepped(W, 2.0) - W) / 4, rtol=1e-6)


def test_an_attacker_moves_the_model_by_the_norm_over_the_denominator():
    """Client 1 of two sends its update a million times over."""
    options = NO_NOISE._replace(clip_norm=0.05, noise_multiplier=0.0)
    hostile = scaling(jnp.array([False, True]), scale=1e6)
    _, state, _ = run(private(MEAN, options), attack=hostile)
    _, honest, _ = run(private(MEAN, options))
    assert np.linalg.norm(weights(state) - W) <= 0.05 * 1.0001
    assert np.linalg.norm(weights(state) - weights(honest)) <= 0.05 * 1.0001


def wide(width, options, rounds=1, method=MEAN, seed=1):
    """A toy of many weights, so that one round has many draws of the noise."""
    start = {"params": {"w": jnp.linspace(-1.0, 1.0, width)}}
    y = jnp.zeros((2, 1, width))
    data = ClientData(jnp.zeros((2, 1, 1)), y, jnp.ones(2, jnp.int32))
    algorithm = engine(
        apply_fn,
        private(method, options),
        loss_fn=half_square,
        learning_rate=0.0,
        local_epochs=1,
        batch_size=1,
        num_clients=2,
        client_map=chunked(1),
    )
    state, step = algorithm.init(jax.random.key(0), start), jax.jit(algorithm.step)
    for t in range(rounds):
        key = jax.random.fold_in(jax.random.key(seed), t)
        state, _ = step(key, state, data)
    return weights(state) - np.asarray(start["params"]["w"]), state


def test_noise_has_the_deviation_of_the_mechanism_and_is_new_each_round():
    """z C / D = 3 * .5 / 10 = .15 a round; deviations of T rounds add as squares."""
    options = Privacy(clip_norm=0.5, noise_multiplier=3.0, denominator=10)
    once, _ = wide(10_000, options)
    four, _ = wide(10_000, options, rounds=4)
    assert once.std() == pytest.approx(0.15, rel=0.03)
    assert abs(once.mean()) < 4 * 0.15 / 100
    assert four.std() == pytest.approx(0.30, rel=0.03)
    again, _ = wide(10_000, options)
    np.testing.assert_array_equal(once, again)
    other, _ = wide(10_000, options, seed=2)
    assert abs(np.corrcoef(once, other)[0, 1]) < 0.05


def halved():
    """The setup that keeps every other weight, without a look at data."""

    def choose(key, context, clients):
        kept = jax.tree.map(lambda w: jnp.arange(w.size) % 2 == 0, context.variables)
        return masks.apply(kept, context.variables), kept

    return Setup(no_clients, choose)


def test_noise_stays_under_the_masks():
    options = Privacy(clip_norm=0.5, noise_multiplier=3.0, denominator=10)
    _, state = wide(1000, options, rounds=3, method=MEAN._replace(setup=halved()))
    w = weights(state)
    assert (w[1::2] == 0).all() and (w[::2] != 0).all()


def test_the_purge_of_the_server_works_on_the_noisy_model():
    """The largest entries that stay are those of the noise, 0 being all else."""
    purge = purge_by(lambda variables, context: pruning.magnitude(variables))
    method = MEAN._replace(schedule=lambda t: jnp.float32(0.9), server=purge)
    options = Privacy(clip_norm=0.5, noise_multiplier=100.0, denominator=10)
    _, state = wide(1000, options, method=method)
    noise_alone, _ = wide(1000, options)
    dense = noise_alone + np.linspace(-1.0, 1.0, 1000)
    largest = np.argsort(-np.abs(dense))[:100]
    assert set(np.flatnonzero(weights(state))) == set(largest)


def test_steps_of_the_server_do_not_learn_who_came_or_with_how_much():
    calls = []

    def look(key, variables, masks, uploads, context):
        calls.append((uploads.sizes, uploads.shares, uploads.ids))
        return variables, masks, context.server

    method = private(MEAN._replace(server=MEAN.server._replace(update=look)), NO_NOISE)
    algorithm = build(method, batch_size=1)
    y = jnp.array([[1.0, 1.0], [3.0, 3.0]])
    data = ClientData(jnp.zeros((2, 2, 1)), y, jnp.array([1, 2]))
    algorithm.step(jax.random.key(0), algorithm.init(jax.random.key(0), START), data)
    sizes, shares, ids = calls[0]
    assert (sizes.tolist(), shares.tolist(), ids.tolist()) == (
        [1, 1],
        [0.5, 0.5],
        [0, 1],
    )


def more(key, local, context, client):
    return Upload(local.variables, local.masks, extra=jnp.ones(1)), client.state


@pytest.mark.parametrize(
    ("method", "reason"),
    [
        (Method(mean), "single uploads"),
        (Method(aggregate("median")), "single uploads"),
        (
            MEAN._replace(client_prune=lambda k, l, c, d: l.masks),
            "masks from their data",
        ),
        (MEAN._replace(upload=sending(more)), "more than their model"),
        (MEAN._replace(receive=lambda c, d: (c.variables, c.masks)), "of their own"),
        (MEAN._replace(project=lambda m, v: v), "more than the weights"),
        (
            MEAN._replace(setup=Setup(lambda key, sizes: jnp.arange(1), None)),
            "from clients' data",
        ),
    ],
)
def test_releases_without_a_bound_are_refused(method, reason):
    with pytest.raises(InputError, match=f"does not go with this method: .*{reason}"):
        private(method, NO_NOISE)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm is 0.0: it must be above 0"),
        ({"noise_multiplier": -1.0}, "at least 0"),
        ({"denominator": float("inf")}, "denominator is inf"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        private(MEAN, NO_NOISE._replace(**options))


def test_running_statistics_are_refused_by_name():
    algorithm = build(private(MEAN, NO_NOISE))
    variables = START | {"batch_stats": {"mean": jnp.zeros(2)}}
    state = algorithm.init(jax.random.key(0), variables)
    y = jnp.array([[1.0], [3.0]])
    data = ClientData(jnp.zeros((2, 1, 1)), y, jnp.ones(2, jnp.int32))
    with pytest.raises(InputError, match="has 'batch_stats' as well"):
        algorithm.step(jax.random.key(0), state, data)
