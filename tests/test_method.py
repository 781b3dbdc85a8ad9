"""Every hook of a Method, by a small method whose result is known in advance.

Together they show that the engine carries the kinds of methods that FedSparsify is
compared with (docs/architecture.md maps each of those to its hooks).
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import aggregation, masks, pruning, trees
from fedsparsify_jax.engine.round import engine
from fedsparsify_jax.method import Method, Upload
from fedsparsify_jax.schedules import constant
from fedsparsify_jax.types import ClientData

RATE = 0.1
# Two clients with one example each; the loss of a client is (w - y)^2 / 2, summed over
# the two entries of w, so that one step from w gives w - RATE (w - y).
TARGETS = jnp.array([1.0, 3.0])
DATA = ClientData(jnp.zeros((2, 1, 1)), TARGETS[:, None], jnp.array([1, 1]))
START = {"params": {"w": jnp.array([2.0, -4.0])}}


def apply_fn(variables, x, *, train=False, key=None, valid=None):
    return jnp.broadcast_to(variables["params"]["w"], (len(x), 2)), {}


def squares(outputs, y):
    return 0.5 * jnp.sum((outputs - y[:, None]) ** 2, axis=-1)


def mean(uploads, context):
    return aggregation.weighted_mean(uploads.variables, uploads.weights), context.masks


def play(method, rounds=1, **options):
    algorithm = engine(
        apply_fn,
        method,
        learning_rate=RATE,
        local_epochs=1,
        batch_size=1,
        loss_fn=squares,
        num_clients=2,
        **options,
    )
    state, step = algorithm.init(jax.random.key(0), START), jax.jit(algorithm.step)
    for t in range(rounds):
        old = state
        state, info = step(jax.random.fold_in(jax.random.key(1), t), state, DATA)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, old)
    return algorithm, state, info


def stepped(w, target):
    return w - RATE * (w - target)


def weights(state):
    return np.asarray(state.variables["params"]["w"])


W = np.array([2.0, -4.0])


def test_defaults_are_federated_averaging():
    _, state, info = play(Method(aggregate=mean))
    np.testing.assert_allclose(weights(state), stepped(W, 2.0), rtol=1e-6)
    expected = np.mean([0.5 * np.sum((W - target) ** 2) for target in (1.0, 3.0)])
    assert float(info.loss) == pytest.approx(expected)


def test_objective_adds_a_proximal_term():
    mu = 5.0

    def objective(loss, variables, batch, key, context):
        value, changed = loss(variables, batch, key)
        gap = variables["params"]["w"] - context.variables["params"]["w"] - 1.0
        return value + 0.5 * mu * jnp.sum(gap**2), changed

    _, state, _ = play(Method(aggregate=mean, objective=objective))
    np.testing.assert_allclose(weights(state), stepped(W, 2.0) + RATE * mu, rtol=1e-6)


def test_objective_reparametrises_and_model_gives_the_real_weights():
    def real(variables):
        return jax.tree.map(lambda theta: theta * jnp.abs(theta), variables)

    def objective(loss, variables, batch, key, context):
        return loss(real(variables), batch, key)

    method = Method(
        aggregate=mean,
        objective=objective,
        model=lambda state: real(state.variables),
    )
    algorithm, state, _ = play(method)
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
        gradient=gradient,
        memory=lambda variables: jax.tree.map(jnp.ones_like, variables),
    )
    _, state, _ = play(method)
    np.testing.assert_allclose(weights(state), W - RATE * (W - 0.5 - 2.0), rtol=1e-6)


def test_memory_reaches_upload_and_the_server():
    def gradient(grad_fn, variables, memory, context):
        value, gradients = grad_fn(variables)
        squared = jax.tree.map(lambda total, g: total + g**2, memory, gradients)
        return value, gradients, squared

    def upload(key, local, context, client):
        return Upload(local.variables, local.masks, local.memory), client.state

    def server_update(key, variables, kept, uploads, context):
        return variables, kept, jax.tree.map(lambda g: jnp.sum(g, 0), uploads.extra)

    method = Method(
        aggregate=mean,
        gradient=gradient,
        memory=lambda variables: jax.tree.map(jnp.zeros_like, variables),
        upload=upload,
        server_state=lambda variables, kept: jax.tree.map(jnp.zeros_like, variables),
        server_update=server_update,
    )
    _, state, _ = play(method)
    expected = (W - 1.0) ** 2 + (W - 3.0) ** 2
    np.testing.assert_allclose(state.server["params"]["w"], expected, rtol=1e-6)


def test_setup_chooses_masks_from_data_before_the_first_round_only():
    def setup(key, context, clients):
        total = jnp.sum(clients.y)  # 4: looked at the data
        kept = {"params": {"w": jnp.array([False, True]) & (total == 4.0)}}
        return masks.apply(kept, context.variables), kept

    _, state, info = play(Method(aggregate=mean, setup=setup), rounds=2)
    expected = stepped(stepped(-4.0, 2.0), 2.0)
    np.testing.assert_allclose(weights(state), [0.0, expected], rtol=1e-6)
    assert float(info.sparsity) == 0.5


def test_receive_gives_personal_masks_and_clients_remember():
    def receive(context, client):
        own = {"params": {"w": jnp.arange(2) == client.id}}
        return masks.apply(own, context.variables), own

    def upload(key, local, context, client):
        return Upload(local.variables, local.masks), client.state + client.id + 1

    def holders(uploads, context):
        merged = aggregation.nonzero_mean(
            uploads.variables, uploads.masks, uploads.weights
        )
        return merged, context.masks

    method = Method(
        aggregate=holders,
        receive=receive,
        upload=upload,
        client_state=lambda variables, kept: jnp.int32(0),
    )
    _, state, info = play(method, rounds=2)
    expected = [stepped(stepped(2.0, 1.0), 1.0), stepped(stepped(-4.0, 3.0), 3.0)]
    np.testing.assert_allclose(weights(state), expected, rtol=1e-6)
    assert state.clients.extra.tolist() == [2, 4]
    assert info.bytes_up.tolist() == [4, 4]


def test_clients_can_look_at_their_neighbours():
    def receive(context, client):
        other = trees.take(context.clients, (client.id + 1) % 2)
        return jax.tree.map(lambda w, n: w + n, context.variables, other), context.masks

    method = Method(
        aggregate=mean,
        receive=receive,
        client_state=lambda variables, kept: jax.tree.map(jnp.ones_like, variables),
    )
    _, state, _ = play(method)
    np.testing.assert_allclose(weights(state), stepped(W + 1.0, 2.0), rtol=1e-6)


def test_client_prune_sees_the_schedule_and_projects_the_upload():
    def client_prune(key, local, context, client):
        return pruning.prune(pruning.magnitude(local.variables), context.sparsity)

    def vote(uploads, context):
        return aggregation.majority_vote_mean(
            uploads.variables, uploads.masks, uploads.weights
        )

    method = Method(aggregate=vote, client_prune=client_prune, schedule=constant(0.5))
    _, state, info = play(method)
    np.testing.assert_allclose(weights(state), [0.0, stepped(-4.0, 2.0)], rtol=1e-6)
    assert info.bytes_up.tolist() == [4, 4]
    assert float(info.target_sparsity) == 0.5


def test_project_runs_after_every_step():
    def project(kept, variables):
        return jax.tree.map(lambda w: jnp.clip(w, -1.0, 1.0), variables)

    _, state, _ = play(Method(aggregate=mean, project=project))
    start = np.clip(W, -1.0, 1.0)
    expected = np.mean([np.clip(stepped(start, t), -1, 1) for t in (1.0, 3.0)], axis=0)
    np.testing.assert_allclose(weights(state), expected, rtol=1e-6)


def test_a_stage_of_growth_freezes_and_downloads_a_part():
    """ProgFed's shape: only the first entry lives in round 1, both from round 2."""

    def live(context):
        return {"params": {"w": jnp.arange(2) < context.round}}

    def objective(loss, variables, batch, key, context):
        return loss(masks.apply(live(context), variables), batch, key)

    def upload(key, local, context, client):
        kept = masks.apply(live(context), local.variables)
        return Upload(kept, local.masks), client.state

    def server_update(key, variables, kept, uploads, context):
        grown = jax.tree.map(jnp.where, live(context), variables, context.variables)
        return grown, kept, context.server

    def download(variables, kept, context):
        return masks.apply(live(context), variables)

    method = Method(
        aggregate=mean,
        objective=objective,
        upload=upload,
        server_update=server_update,
        download=download,
    )
    _, state, info = play(method)
    np.testing.assert_allclose(weights(state), [stepped(2.0, 2.0), -4.0], rtol=1e-6)
    assert info.bytes_up.tolist() == info.bytes_down.tolist() == [4, 4]
    _, state, info = play(method, rounds=2)
    np.testing.assert_allclose(weights(state), [2.0, stepped(-4.0, 2.0)], rtol=1e-6)
    assert info.bytes_down.tolist() == [8, 8]


def test_finish_runs_after_the_last_round():
    def finish(key, state, clients):
        return state._replace(variables=jax.tree.map(jnp.zeros_like, state.variables))

    algorithm, state, _ = play(Method(aggregate=mean, finish=finish))
    done = algorithm.finish(jax.random.key(2), state, DATA)
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
        Method(aggregate=mean, server_update=purge),
        loss_fn=squares,
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
