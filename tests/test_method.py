"""Every hook of a Method, by a small method whose result is known in advance.

Together they show that the engine carries the kinds of methods that FedSparsify is
compared with (docs/architecture.md maps each of those to its hooks).
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import (
    DATA,
    RATE,
    START,
    W,
    apply_fn,
    half_square,
    mean,
    run,
    sending,
    serving,
    stepped,
    weights,
)

from fedsparsify_jax import aggregation, masks, pruning, trees
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.algorithms._shared.server_purge import purge_by
from fedsparsify_jax.algorithms.fedopt import server_step
from fedsparsify_jax.algorithms.fedsparsify_plus import movement_purge as moved
from fedsparsify_jax.engine import engine
from fedsparsify_jax.method import (
    GradientTransform,
    Method,
    Setup,
    Upload,
    chain,
    stacked,
)
from fedsparsify_jax.schedules import constant
from fedsparsify_jax.types import ClientData


def test_defaults_are_federated_averaging():
    _, state, info = run(Method(aggregate=mean))
    np.testing.assert_allclose(weights(state), stepped(W, 2.0), rtol=1e-6)
    expected = np.mean([0.5 * np.sum((W - target) ** 2) for target in (1.0, 3.0)])
    assert float(info.loss) == pytest.approx(expected)


def test_objective_adds_a_proximal_term():
    mu = 5.0

    def objective(loss, variables, batch, key, context):
        value, changed = loss(variables, batch, key)
        gap = variables["params"]["w"] - context.variables["params"]["w"] - 1.0
        return value + 0.5 * mu * jnp.sum(gap**2), changed

    _, state, _ = run(Method(aggregate=mean, objective=objective))
    np.testing.assert_allclose(weights(state), stepped(W, 2.0) + RATE * mu, rtol=1e-6)


def test_objective_sees_the_clients_own_data():
    """Two clients go towards the means of their own targets, 1 and 3."""

    def objective(loss, variables, batch, key, context):
        mine = jnp.sum(context.data.y) / context.data.sizes
        return 0.5 * jnp.sum((variables["params"]["w"] - mine) ** 2), {}

    _, state, _ = run(Method(aggregate=mean, objective=objective))
    np.testing.assert_allclose(weights(state), stepped(W, 2.0), rtol=1e-6)


def test_objective_reparametrises_and_model_gives_the_real_weights():
    def real(variables):
        return jax.tree.map(lambda theta: theta * jnp.abs(theta), variables)

    def objective(loss, variables, batch, key, context):
        return loss(real(variables), batch, key)

    algorithm, state, _ = run(Method(aggregate=mean, objective=objective))
    algorithm = algorithm._replace(model=lambda state: real(state.variables))
    gradient = (W * abs(W) - 2.0) * 2 * abs(W)
    np.testing.assert_allclose(weights(state), W - RATE * gradient, rtol=1e-5)
    deployed = algorithm.model(state)["params"]["w"]
    np.testing.assert_allclose(deployed, weights(state) * abs(weights(state)))


def test_gradient_looks_ahead_along_what_memory_holds():
    def gradient(grad_fn, variables, memory, context):
        ahead = jax.tree.map(lambda w, past: w - 0.5 * past, variables, memory)
        value, gradients = grad_fn(ahead)
        return value, gradients, gradients

    method = Method(
        aggregate=mean,
        gradient=GradientTransform(
            lambda variables: jax.tree.map(jnp.ones_like, variables), gradient
        ),
    )
    _, state, _ = run(method)
    np.testing.assert_allclose(weights(state), W - RATE * (W - 0.5 - 2.0), rtol=1e-6)


def test_memory_reaches_upload_and_the_server():
    def gradient(grad_fn, variables, memory, context):
        value, gradients = grad_fn(variables)
        squared = jax.tree.map(lambda total, g: total + g**2, memory, gradients)
        return value, gradients, squared

    def send(key, local, context, client):
        return Upload(local.variables, local.masks, local.memory), client.state

    def add_up(key, variables, kept, uploads, context):
        return variables, kept, jax.tree.map(lambda g: jnp.sum(g, 0), uploads.extra)

    def zeros(variables, kept=None):
        return jax.tree.map(jnp.zeros_like, variables)

    method = Method(
        aggregate=mean,
        gradient=GradientTransform(zeros, gradient),
        upload=sending(send),
        server=serving(add_up, zeros),
    )
    _, state, _ = run(method)
    expected = (W - 1.0) ** 2 + (W - 3.0) ** 2
    np.testing.assert_allclose(state.server["params"]["w"], expected, rtol=1e-6)


def test_setup_chooses_masks_from_data_before_the_first_round_only():
    def first_masks(key, context, clients):
        total = jnp.sum(clients.data.y)  # 4: looked at the data
        kept = {"params": {"w": jnp.array([False, True]) & (total == 4.0)}}
        return masks.apply(kept, context.variables), kept

    setup = Setup(lambda key, sizes: jnp.arange(len(sizes)), first_masks)
    _, state, info = run(Method(aggregate=mean, setup=setup), rounds=2)
    expected = stepped(stepped(-4.0, 2.0), 2.0)
    np.testing.assert_allclose(weights(state), [0.0, expected], rtol=1e-6)
    assert float(info.sparsity) == 0.5


def test_receive_gives_personal_masks_and_clients_remember():
    def receive(context, client):
        kept = {"params": {"w": jnp.arange(2) == client.id}}
        return masks.apply(kept, context.variables), kept

    def send(key, local, context, client):
        return Upload(local.variables, local.masks), client.state + client.id + 1

    method = Method(
        aggregate=aggregate("nonzero"),
        receive=receive,
        upload=sending(send, lambda variables, kept: jnp.int32(0)),
    )
    _, state, info = run(method, rounds=2)
    expected = [stepped(stepped(2.0, 1.0), 1.0), stepped(stepped(-4.0, 3.0), 3.0)]
    np.testing.assert_allclose(weights(state), expected, rtol=1e-6)
    assert state.clients.extra.tolist() == [2, 4]
    assert info.bytes_up.tolist() == [4, 4]


def test_clients_can_look_at_their_neighbours():
    def receive(context, client):
        other = trees.take(context.clients, (client.id + 1) % 2)
        return jax.tree.map(lambda w, n: w + n, context.variables, other), context.masks

    def send(key, local, context, client):
        return Upload(local.variables, local.masks), client.state

    def ones(variables, kept):
        return jax.tree.map(jnp.ones_like, variables)

    method = Method(aggregate=mean, receive=receive, upload=sending(send, ones))
    _, state, _ = run(method)
    np.testing.assert_allclose(weights(state), stepped(W + 1.0, 2.0), rtol=1e-6)


def test_client_prune_sees_the_schedule_and_projects_the_upload():
    def client_prune(key, local, context, client):
        return pruning.prune(pruning.magnitude(local.variables), context.sparsity)

    @stacked
    def vote(uploads, context):
        return aggregation.majority_vote_mean(
            uploads.variables, uploads.masks, uploads.sizes
        )

    method = Method(aggregate=vote, client_prune=client_prune, schedule=constant(0.5))
    _, state, info = run(method)
    np.testing.assert_allclose(weights(state), [0.0, stepped(-4.0, 2.0)], rtol=1e-6)
    assert info.bytes_up.tolist() == [4, 4]
    assert float(info.target_sparsity) == 0.5


def test_project_runs_after_every_step():
    def project(kept, variables):
        return jax.tree.map(lambda w: jnp.clip(w, -1.0, 1.0), variables)

    _, state, _ = run(Method(aggregate=mean, project=project))
    start = np.clip(W, -1.0, 1.0)
    expected = np.mean([np.clip(stepped(start, t), -1, 1) for t in (1.0, 3.0)], axis=0)
    np.testing.assert_allclose(weights(state), expected, rtol=1e-6)


def test_a_stage_of_growth_freezes_and_downloads_a_part():
    """ProgFed's shape: only the first entry lives in round 1, both from round 2."""

    def live(context):
        return {"params": {"w": jnp.arange(2) < context.round}}

    def objective(loss, variables, batch, key, context):
        return loss(masks.apply(live(context), variables), batch, key)

    def send(key, local, context, client):
        kept = masks.apply(live(context), local.variables)
        return Upload(kept, local.masks), client.state

    def freeze(key, variables, kept, uploads, context):
        grown = jax.tree.map(jnp.where, live(context), variables, context.variables)
        return grown, kept, context.server

    def download(variables, kept, context):
        return masks.apply(live(context), variables)

    method = Method(
        aggregate=mean,
        objective=objective,
        upload=sending(send),
        server=serving(freeze),
        download=download,
    )
    _, state, info = run(method)
    np.testing.assert_allclose(weights(state), [stepped(2.0, 2.0), -4.0], rtol=1e-6)
    assert info.bytes_up.tolist() == info.bytes_down.tolist() == [4, 4]
    _, state, info = run(method, rounds=2)
    np.testing.assert_allclose(weights(state), [2.0, stepped(-4.0, 2.0)], rtol=1e-6)
    assert info.bytes_down.tolist() == [8, 8]


def test_finish_runs_after_the_last_round():
    def finish(key, state, clients):
        return state._replace(variables=jax.tree.map(jnp.zeros_like, state.variables))

    algorithm, state, _ = run(Method(aggregate=mean))
    done = algorithm._replace(finish=finish).finish(jax.random.key(2), state, DATA)
    assert weights(done).tolist() == [0.0, 0.0]


def test_changed_collections_travel_and_are_never_pruned():
    def counting(variables, x, *, train=False, key=None, valid=None):
        outputs, _ = apply_fn(variables, x)
        seen = variables["batch_stats"]["seen"] + jnp.sum(valid)
        return outputs, {"batch_stats": {"seen": seen}}

    def purge(key, variables, kept, uploads, context):
        kept = pruning.prune(pruning.magnitude(variables), 0.5, within=kept)
        return masks.apply(kept, variables), kept, ()

    algorithm = engine(
        counting,
        Method(aggregate=mean, server=serving(purge)),
        loss_fn=half_square,
        local_epochs=3,
        batch_size=2,
    )
    variables = START | {"batch_stats": {"seen": jnp.float32(0)}}
    data = ClientData(
        jnp.zeros((2, 5, 1)), jnp.zeros((2, 5)), jnp.array([5, 1], jnp.int32)
    )
    state = algorithm.init(jax.random.key(0), variables)
    state, info = jax.jit(algorithm.step)(jax.random.key(1), state, data)
    # 15 and 3 examples seen, averaged with weights 5 and 1
    assert float(state.variables["batch_stats"]["seen"]) == pytest.approx(13.0)
    assert bool(state.masks["batch_stats"]["seen"])
    assert float(info.sparsity) == 0.5


# -- what composes


def server_of(method, rounds=1, **options):
    _, state, _ = run(method, rounds, **options)
    return state


def test_a_chain_gives_every_link_its_own_state_and_the_model_before_it():
    def doubled(key, variables, kept, uploads, context):
        new = jax.tree.map(lambda w: 2 * w, variables)
        return new, kept, context.server + 1

    def raised(key, variables, kept, uploads, context):
        new = jax.tree.map(lambda w: w + 1, variables)
        return new, kept, context.server * 2

    links = (
        serving(doubled, lambda variables, kept: jnp.int32(0)),
        serving(raised, lambda variables, kept: jnp.int32(1)),
    )
    state = server_of(Method(aggregate=mean, server=chain(*links)))
    np.testing.assert_allclose(weights(state), 2 * stepped(W, 2.0) + 1, rtol=1e-6)
    assert tuple(map(int, state.server)) == (1, 2)
    assert chain(links[0]) is links[0]


SPARSE = {"aggregate": aggregate("mean"), "schedule": constant(0.5)}
PURGE = purge_by(lambda variables, context: pruning.magnitude(variables))


def test_fedopt_and_fedsparsify_are_one_line():
    server = chain(server_step("momentum"), PURGE)
    state = server_of(Method(**SPARSE, server=server))
    # The first step of FedAvgM is that of FedAvg; then the smaller of two goes.
    np.testing.assert_allclose(weights(state), [0.0, stepped(-4.0, 2.0)], rtol=1e-6)
    momentum = jax.tree.leaves(state.server[0])[0]
    np.testing.assert_allclose(momentum, W - stepped(W, 2.0), rtol=1e-5)


def test_movement_scores_and_server_momentum_are_one_line():
    state = server_of(Method(**SPARSE, server=chain(server_step("momentum"), moved())))
    # |w| |w - w_0|: 1.99 x 0.01 at the first entry, 3.4 x 0.6 at the second.
    np.testing.assert_allclose(weights(state), [0.0, stepped(-4.0, 2.0)], rtol=1e-6)
    np.testing.assert_array_equal(state.server[1]["params"]["w"], W)  # w_0


def test_an_average_is_one_line():
    algorithm, state, _ = run(Method(**SPARSE, server=PURGE), rounds=2, server_ema=0.5)
    first = stepped(-4.0, 2.0)
    second = stepped(first, 2.0)
    rate = (1 - 0.5) / (1 - 0.5**2)
    expected = [0.0, (1 - rate) * first + rate * second]
    model = algorithm.model(state)["params"]["w"]
    np.testing.assert_allclose(model, expected, rtol=1e-6)
    np.testing.assert_allclose(weights(state), [0.0, second], rtol=1e-6)
