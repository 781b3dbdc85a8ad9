"""DP-SGD inside the round: steps, methods, keys, and all that surrounds a round."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance_build import MODEL
from conformance_build import build as build_row
from conftest import make_clients
from toy import DATA, MLP, RATE, START, W, build, linear, round_keys, run

from fedsparsify_jax import trees
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.engine import engine
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.method import GradientTransform, Method, Upload, Uploader
from fedsparsify_jax.privacy import ExamplePrivacy
from fedsparsify_jax.training.losses import squared_error
from fedsparsify_jax.types import ClientData

MEAN = Method(aggregate("mean"))
WITHOUT = ExamplePrivacy(clip_norm=1e6, noise_multiplier=0.0)
NOISY = ExamplePrivacy(clip_norm=0.5, noise_multiplier=1.0)

# Methods with a use of their own for the loss, or the gradients, of a step.
LIKE_PLAIN = ("fedsparsify-local, fisher", "feddip, penalty, within")
REFUSED = {
    "fedsparsify-global, lars and sam": "gradient_point sam, whose steps take two",
    "snip": "first masks come from clients' data",
    "grasp": "first masks come from clients' data",
    "ssfl": "first masks come from clients' data",
    "flash": "first masks come from clients' data",
    "prunefl": "grows weights by gradients",
    "rigl, snfs by clients": "grows weights by gradients",
    "unipts": "after the last round it looks at clients' examples",
}
# Found out when a round is traced.
REFUSED_ROUNDS = {
    "feddst": "its choice of clients' masks looks at examples",
    "dispfl": "its choice of clients' masks looks at examples",
    "rigl": "what its clients send looks at examples",
    "fedtiny": "what its clients send looks at examples",
    "fedrts": "what its clients send looks at examples",
    "heterofl": "what its clients start from looks at examples",
    "lotteryfl": "what its clients start from looks at examples",
    "slimmable": "its loss looks at examples",
}


def rounds_of(algorithm, clients, number=2):
    """Runs rounds of one trace."""
    chex.clear_trace_counter()
    state = algorithm.init(jax.random.key(1), MLP.init(jax.random.key(2)))
    step = jax.jit(chex.assert_max_traces(algorithm.step, 1))
    for key in round_keys(number):
        state, info = step(key, state, clients)
    return state, info


@pytest.mark.parametrize("name", LIKE_PLAIN)
def test_rounds_are_plain_ones_without_noise_and_clipping(name):
    """For clients whose batches of 3 are full, or their only one."""
    clients = make_clients((6, 3, 2, 3))
    plain, info = rounds_of(build_row(name, model=MLP), clients)
    hidden, same = rounds_of(build_row(name, model=MLP, privacy=WITHOUT), clients)
    chex.assert_trees_all_close(hidden.variables, plain.variables, atol=2e-5)
    chex.assert_trees_all_equal(hidden.masks, plain.masks)
    assert float(info.loss) == pytest.approx(float(same.loss), rel=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_methods_that_look_at_examples_are_refused(name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        build_row(name, model=MLP, privacy=NOISY)


@pytest.mark.parametrize("name", REFUSED_ROUNDS)
def test_rounds_in_which_hooks_look_at_examples_are_refused(name):
    algorithm = build_row(name, model=MLP, privacy=NOISY)
    start = MLP.init(jax.random.key(2))
    state = jax.eval_shape(lambda: algorithm.init(jax.random.key(1), start))
    with pytest.raises(InputError, match=REFUSED_ROUNDS[name]):
        jax.eval_shape(algorithm.step, jax.random.key(0), state, make_clients())


STEPS, SLOPE = 3, 0.7


def numpys(norm, masks=(1.0, 1.0)):
    """STEPS steps on the mean of clipped gradients of two examples, with momentum."""
    x, y = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([4.0, 0.5])
    w, velocity = np.array([0.5, -0.5]) * masks, np.zeros(2)
    for _ in range(STEPS):
        each = 2 * (x @ w - y)[:, None] * x * masks
        lengths = np.sqrt((each**2).sum(1))
        total = (each * np.minimum(1, norm / lengths)[:, None]).sum(0)
        velocity = SLOPE * velocity + total / 2
        w = (w - 0.1 * velocity) * masks
    return w


@pytest.mark.parametrize("norm", [0.2, 3.0])
def test_a_round_is_numpys_steps_on_clipped_gradients(norm):
    model = linear([0.5, -0.5])
    x, y = jnp.array([[[1.0, 2.0], [3.0, -1.0]]]), jnp.array([[4.0, 0.5]])
    algorithm = engine(
        model.apply,
        MEAN,
        learning_rate=0.1,
        momentum=SLOPE,
        local_epochs=STEPS,
        batch_size=2,
        loss_fn=squared_error,
        privacy=ExamplePrivacy(clip_norm=norm, noise_multiplier=0.0),
    )
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(0)))
    data = ClientData(x, y, jnp.array([2]))
    state, _ = jax.jit(algorithm.step)(jax.random.key(1), state, data)
    np.testing.assert_allclose(state.variables["params"]["w"], numpys(norm), rtol=1e-5)


def recording(steps, width):
    """The mean, whose clients keep the gradients of their first steps of a round."""

    def record(grad_fn, variables, memory, context):
        value, gradients = grad_fn(variables)
        number, rows = memory
        rows = rows.at[number].set(gradients["params"]["w"])
        return value, gradients, (number + 1, rows)

    empty = jnp.zeros((steps, width))
    return MEAN._replace(
        gradient=GradientTransform(lambda v: (jnp.int32(0), empty), record),
        upload=Uploader(
            lambda variables, masks: empty,
            lambda key, local, *_: (
                Upload(local.variables, local.masks),
                local.memory[1],
            ),
        ),
        fine_tune_epochs=1,
    )


def test_no_noise_is_that_of_another_step_client_round_or_run():
    """Of 2 runs, 3 rounds, 3 clients, 2 + 1 epochs of 2 steps; a loss without slope."""
    width, rows = 500, []
    data = ClientData(
        jnp.zeros((3, 4, 1)), jnp.zeros((3, 4)), jnp.full(3, 4, jnp.int32)
    )
    algorithm = build(
        recording(6, width),
        num_clients=3,
        local_epochs=2,
        batch_size=2,
        loss_fn=lambda outputs, y: 0.0 * outputs.sum(-1),
        privacy=ExamplePrivacy(clip_norm=0.5, noise_multiplier=2.0, passes=3),
    )
    start = {"params": {"w": jnp.ones(width)}}
    step = jax.jit(algorithm.step)
    for seed in (1, 2):
        state = algorithm.init(jax.random.key(0), start)
        for key in round_keys(3, seed=seed):
            state, _ = step(key, state, data)
            rows += list(np.asarray(state.clients.extra).reshape(-1, width))
    assert len(rows) == 2 * 3 * 3 * 6
    draws = np.stack(rows)
    together = np.corrcoef(draws) - np.eye(len(rows))
    assert np.abs(together).max() < 6 / np.sqrt(width)
    # z C / B = 2 * .5 / 2
    assert draws.std() == pytest.approx(0.5, rel=4 / np.sqrt(2 * draws.size))


def test_noise_stays_under_the_masks_that_clients_choose_by_noisy_models():
    clients, name = make_clients((6, 3, 2, 3)), "fedsparsify-local"
    state, info = rounds_of(build_row(name, model=MLP, privacy=NOISY), clients)
    for w, kept in zip(
        jax.tree.leaves(state.variables), jax.tree.leaves(state.masks), strict=True
    ):
        assert (np.asarray(w)[~np.asarray(kept)] == 0).all()
    assert 0 < float(info.sparsity) < 1


def test_an_example_that_is_no_number_changes_neither_losses_nor_who_counts():
    """It moves two steps by at most C each, at divisor 1 and rate 0.1."""
    privacy = ExamplePrivacy(clip_norm=0.05, noise_multiplier=0.0)
    algorithm = build(MEAN, privacy=privacy, local_epochs=2)
    state, step = algorithm.init(jax.random.key(0), START), jax.jit(algorithm.step)
    with jax.debug_nans(False):
        broken = DATA._replace(y=jnp.array([[1.0], [jnp.nan]]))
        new, info = step(jax.random.key(1), state, broken)
    assert int(info.merged) == 2 and np.isfinite(info.loss)
    moved = np.asarray(new.variables["params"]["w"]) - W
    assert 0 < np.linalg.norm(moved) <= 2 * RATE * 0.05 / 2 * 1.0001


def test_numbers_of_the_mechanism_may_be_traced():
    def trained(clip, noise):
        privacy = ExamplePrivacy(clip_norm=clip, noise_multiplier=noise)
        algorithm = build(MEAN, privacy=privacy)
        state = algorithm.init(jax.random.key(0), START)
        return algorithm.step(jax.random.key(1), state, DATA)[0].variables

    both = jax.jit(jax.vmap(trained))(jnp.array([0.5, 0.2]), jnp.array([1.0, 2.0]))
    one = jax.jit(trained)(jnp.float32(0.2), jnp.float32(2.0))
    chex.assert_trees_all_close(trees.take(both, 1), one, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"privacy": NOISY._replace(clip_norm=0.0)}, "clip_norm is 0.0"),
        ({"privacy": NOISY._replace(noise_multiplier=-1.0)}, "at least 0"),
        ({"privacy": NOISY._replace(passes=3)}, "counts 3 passes .* makes 4"),
        ({"local_steps": 3}, "does not go with local_steps"),
        ({"gradient_point": "fresh"}, "whose steps take two gradients"),
    ],
)
def test_what_is_not_accounted_for_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(MEAN, **{"local_epochs": 3.5, "privacy": NOISY} | options)


def test_optimizers_get_gradients_alone():
    """One that asks for the loss, which no noise hides, does not get it."""
    polyak = optax.polyak_sgd()
    with pytest.raises(InputError, match="optimizer: its update fails"):
        run(MEAN, privacy=NOISY, optimizer=polyak)
    run(MEAN, privacy=NOISY, optimizer=optax.adam(0.1))


def test_models_with_running_statistics_are_refused():
    algorithm = build_row("fedavg", model=MODEL, privacy=NOISY)
    state = algorithm.init(jax.random.key(1), MODEL.init(jax.random.key(2)))
    with pytest.raises(InputError, match="training changes 'batch_stats' as well"):
        jax.eval_shape(algorithm.step, jax.random.key(0), state, make_clients())
