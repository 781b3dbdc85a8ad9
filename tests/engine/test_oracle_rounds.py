"""Three complete rounds against a federated run written from scratch in NumPy."""

import jax
import numpy as np
import numpy_federation as oracle
import pytest
from oracle_draws import batch_orders, to_layers
from toy import run_rounds

from fedsparsify_jax import algorithms, models

COUNTS, EPOCHS, BATCH, RATE, ROUNDS, FINAL = (7, 4, 1, 6), 2, 3, 0.3, 3, 0.6


def schedule(t):
    return FINAL * (1 - (1 - (t - 1) / (ROUNDS - 1)) ** 3)


def run_oracle(name, variables, clients, round_keys, cohorts, momentum, kept):
    """Replays the run; returns layers, masks and training losses, round by round."""
    layers = to_layers(variables)
    ones = [(np.ones_like(w), np.ones_like(b)) for w, b in layers]
    zeros = [(np.zeros_like(w), np.zeros_like(b)) for w, b in layers]
    velocities = dict.fromkeys(range(len(COUNTS)), zeros)
    masks, history = ones, []
    for t, (key, cohort) in enumerate(zip(round_keys, cohorts, strict=True), start=1):
        orders = batch_orders(key, cohort, COUNTS)
        locals_, local_masks, losses = [], [], []
        for client in map(int, cohort):
            count = COUNTS[client]
            x = np.float64(clients.x[client, :count])
            y = np.asarray(clients.y[client, :count])
            start = velocities[client] if kept else zeros
            local, velocity, loss = oracle.train(
                layers, masks, x, y, orders[client], BATCH, RATE, momentum, start
            )
            velocities[client] = velocity
            own = masks
            if name == "fedsparsify_local":
                own = oracle.keep_largest(local, masks, schedule(t))
            locals_.append(oracle.apply_masks(local, own))
            local_masks.append(own)
            losses.append(loss)
        weights = np.array([COUNTS[int(client)] for client in cohort], float)
        layers = oracle.mean(locals_, weights)
        if name == "fedsparsify_global":
            masks = oracle.keep_largest(layers, masks, schedule(t))
        if name == "fedsparsify_local":
            masks = oracle.vote(local_masks)
        layers = oracle.apply_masks(layers, masks)
        history.append((layers, masks, np.average(losses, weights=weights)))
    return history


@pytest.mark.parametrize(("momentum", "kept"), [(0.0, False), (0.5, True)])
@pytest.mark.parametrize("participation", [1.0, 0.5])
@pytest.mark.parametrize("name", ["fedavg", "fedsparsify_global", "fedsparsify_local"])
def test_three_rounds(name, participation, momentum, kept, clients):
    model = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(6, 4))
    options = {
        "learning_rate": RATE,
        "momentum": momentum,
        "optimizer_state": "kept" if kept else "fresh",
        "num_clients": len(COUNTS),
        "local_epochs": EPOCHS,
        "batch_size": BATCH,
        "participation": participation,
    }
    if name != "fedavg":
        options |= {"final_sparsity": FINAL, "rounds": ROUNDS}
    algorithm = getattr(algorithms, name)(model.apply, **options)
    variables = model.init(jax.random.key(5))
    state = algorithm.init(jax.random.key(0), variables)
    round_keys = list(jax.random.split(jax.random.key(6), ROUNDS))

    step = jax.jit(algorithm.step)
    (_, *states), infos = run_rounds(step, state, clients, round_keys)
    cohorts = [np.asarray(info.cohort) for info in infos]
    assert [len(cohort) for cohort in cohorts] == [round(participation * 4)] * ROUNDS

    with jax.debug_key_reuse(False):  # to replay the run is to use its keys again
        history = run_oracle(
            name, variables, clients, round_keys, cohorts, momentum, kept
        )
    for now, info, (layers, masks, loss) in zip(states, infos, history, strict=True):
        found, inside = to_layers(now.variables), to_layers(now.masks)
        for have, want in zip(found, layers, strict=True):
            np.testing.assert_allclose(have[0], want[0], atol=2e-5)
            np.testing.assert_allclose(have[1], want[1], atol=2e-5)
        np.testing.assert_array_equal(oracle.flatten(inside), oracle.flatten(masks))
        assert float(info.loss) == pytest.approx(loss, abs=2e-5)
        flat = oracle.flatten(masks)
        assert float(info.sparsity) == pytest.approx(1 - flat.mean(), abs=1e-6)
