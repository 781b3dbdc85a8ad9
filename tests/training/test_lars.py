"""LARS: steps of NumPy, under masks, and inside a round."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import DATA, MLP, START, build, round_keys, run_rounds, weights

from fedsparsify_jax import algorithms
from fedsparsify_jax.aggregation.streaming import aggregate
from fedsparsify_jax.method import Method
from fedsparsify_jax.training.optimizers import lars

DECAY, TRUST, MOMENTUM, LEARNING = 0.1, 0.02, 0.9, 3.0


def numpys(w, g, v, kept=1.0, nesterov=False):
    """One layer's step, with what momentum keeps."""
    update = g * kept + DECAY * w
    norm = np.linalg.norm(update)
    ratio = TRUST * np.linalg.norm(w) / norm if w.any() and norm else 1.0
    step = -LEARNING * ratio * update
    v = MOMENTUM * v + step
    return w + (MOMENTUM * v + step if nesterov else v), v


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_are_numpys_layer_by_layer(nesterov):
    rng = np.random.default_rng(0)
    w = {"kernel": rng.normal(size=(4, 3)), "bias": np.zeros(3), "idle": np.zeros(2)}
    v = {name: np.zeros_like(leaf) for name, leaf in w.items()}
    kept = {"kernel": rng.random((4, 3)) < 0.5, "bias": np.ones(3), "idle": np.ones(2)}
    w["kernel"] *= kept["kernel"]
    optimizer = lars(
        LEARNING,
        weight_decay=DECAY,
        trust_coefficient=TRUST,
        momentum=MOMENTUM,
        nesterov=nesterov,
    )
    got = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), w)
    state = optimizer.init(got)
    for _ in range(3):
        g = {name: rng.normal(size=leaf.shape) for name, leaf in w.items()}
        g["idle"] = np.zeros(2)
        for name in w:
            w[name], v[name] = numpys(w[name], g[name], v[name], kept[name], nesterov)
        updates, state = optimizer.update(
            jax.tree.map(jnp.float32, g),
            state,
            got,
            project=lambda tree: jax.tree.map(lambda a, m: a * m, tree, kept),
        )
        got = optax.apply_updates(got, updates)
    for name in w:
        np.testing.assert_allclose(got[name], w[name], rtol=1e-5, atol=1e-7)


def test_a_client_steps_by_what_its_masks_keep():
    """Two steps of every client; the pruned entry's gradient is in no norm."""
    options = {
        "optimizer": "lars",
        "learning_rate": LEARNING,
        "momentum": MOMENTUM,
        "weight_decay": DECAY,
        "trust_coefficient": TRUST,
        "local_epochs": 2,
    }
    algorithm = build(Method(aggregate("mean")), **options)
    kept = np.array([True, False])
    state = algorithm.init(jax.random.key(0), START)
    state = state._replace(masks={"params": {"w": jnp.asarray(kept)}})
    states, _ = run_rounds(jax.jit(algorithm.step), state, DATA, round_keys(1))
    moved = []
    for target in (1.0, 3.0):
        w, v = np.array([2.0, 0.0]), np.zeros(2)
        for _ in range(2):
            w, v = numpys(w, w - target, v, kept)
        moved.append(w)
    np.testing.assert_allclose(weights(states[-1]), np.mean(moved, axis=0), rtol=1e-5)


def test_the_defaults_are_those_of_the_paper_without_decay_and_momentum(clients):
    results = []
    for more in (
        {},
        {"weight_decay": 0.0, "trust_coefficient": 0.001, "momentum": 0.0},
    ):
        algorithm = algorithms.fedavg(
            MLP.apply, optimizer="lars", local_epochs=1, learning_rate=1.0, **more
        )
        state = algorithm.init(jax.random.key(0), MLP.init(jax.random.key(1)))
        results.append(algorithm.step(jax.random.key(2), state, clients)[0].variables)
    assert all(
        jax.tree.leaves(jax.tree.map(lambda a, b: bool((a == b).all()), *results))
    )


def test_sgd_by_name_is_sgd():
    results = []
    for more in ({}, {"optimizer": "sgd"}):
        algorithm = build(Method(aggregate("mean")), momentum=0.9, **more)
        state = algorithm.init(jax.random.key(0), START)
        results.append(weights(algorithm.step(jax.random.key(1), state, DATA)[0]))
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"optimizer": "adamw"}, "unknown optimizer 'adamw': sgd or lars"),
        ({"weight_decay": 1e-4}, "weight_decay goes with the optimizer lars"),
        (
            {"optimizer": "sgd", "trust_coefficient": 1e-3},
            "trust_coefficient goes with the optimizer lars",
        ),
        (
            {"optimizer": "lars", "weight_decay": -1.0},
            "weight_decay is -1.0: it must be at least 0 and finite",
        ),
    ],
)
def test_what_cannot_be_is_refused(options, line):
    with pytest.raises(ValueError, match=line):
        build(Method(aggregate("mean")), **options)
