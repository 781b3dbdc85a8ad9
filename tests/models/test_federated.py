"""Models of every kind through whole federated rounds."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedsparsify_jax import algorithms, models
from fedsparsify_jax.metrics.evaluation import evaluate
from fedsparsify_jax.types import ClientData, Examples

ROUNDS = 3


def rounds_of(model: models.Model, variables: Any, clients: ClientData) -> Any:
    """State and round infos of three rounds, all inside one scan."""
    algorithm = algorithms.fedsparsify_global(
        model.apply,
        final_sparsity=0.5,
        rounds=ROUNDS,
        local_epochs=1,
        batch_size=4,
        learning_rate=0.05,
    )

    @jax.jit
    def run(variables: Any) -> Any:
        init_key, run_key = jax.random.split(jax.random.key(0))
        state = algorithm.init(init_key, variables)
        keys = jax.random.split(run_key, ROUNDS)
        return jax.lax.scan(
            lambda state, key: algorithm.step(key, state, clients), state, keys
        )

    return run(variables)


def check(state: Any, infos: Any, variables: Any) -> None:
    assert int(state.round) == ROUNDS
    assert jax.tree.structure(state.variables) == jax.tree.structure(variables)
    assert jax.tree.structure(state.masks) == jax.tree.structure(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.variables))
    assert np.isfinite(infos.loss).all()
    np.testing.assert_allclose(infos.sparsity[-1], 0.5, atol=0.05)
    for weight, mask in zip(
        jax.tree.leaves(state.variables), jax.tree.leaves(state.masks), strict=True
    ):
        assert np.all(np.asarray(weight)[~np.asarray(mask)] == 0)
    for leaf in jax.tree.leaves(state.masks.get("batch_stats", {})):
        assert np.all(leaf)


@pytest.fixture
def images() -> ClientData:
    """Three clients of 8x8 images, one of them shorter than a batch."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (3, 6, 8, 8), dtype=np.uint8)
    y = rng.integers(0, 2, (3, 6))
    x[y == 1, :4] //= 4
    count = jnp.array([6, 5, 1], jnp.int32)
    return ClientData(jnp.asarray(x), jnp.asarray(y, jnp.int32), count)


def test_a_tiny_cnn_keeps_its_statistics_unpruned_and_finite(
    images: ClientData, made_up: Any
) -> None:
    model = models.build(
        "cnn",
        input_shape=(8, 8),
        num_classes=2,
        widths=(2, 3),
        hidden=4,
        preprocess=lambda x: x.astype(jnp.float32) / 255,
    )
    variables = made_up(model.init)
    state, infos = rounds_of(model, variables, images)
    check(state, infos, variables)
    moved = jax.tree.map(
        lambda a, b: np.any(a != b),
        state.variables["batch_stats"],
        variables["batch_stats"],
    )
    assert all(jax.tree.leaves(moved))
    examples = Examples(images.x[0], images.y[0])
    scores = evaluate(
        model.apply,
        lambda outputs, y: jnp.abs(outputs[:, 0]),
        state.variables,
        examples,
    )
    assert np.isfinite(scores.loss)


def test_a_network_gives_each_client_of_a_vmap_its_own_answer(
    images: ClientData, made_up: Any
) -> None:
    model = models.build(
        "cnn", input_shape=(8, 8), num_classes=2, widths=(2, 3), hidden=4
    )
    variables = made_up(model.init)
    stacked = jax.tree.map(
        lambda leaf: jnp.stack([leaf, 0.5 * leaf, 2.0 * leaf]), variables
    )

    def one(variables: Any, x: jax.Array) -> jax.Array:
        return model.apply(variables, x)[0]

    together = jax.jit(jax.vmap(one))(stacked, images.x)
    apart = jax.jit(lambda both: jax.lax.map(lambda pair: one(*pair), both))(
        (stacked, images.x)
    )
    np.testing.assert_allclose(together, apart, rtol=1e-4, atol=1e-4)
    alone = jax.jit(one)(jax.tree.map(lambda leaf: leaf[1], stacked), images.x[1])
    np.testing.assert_allclose(together[1], alone, rtol=1e-4, atol=1e-4)


class UserLinen(nn.Module):
    """A user's own network, with Flax's batch norm and dropout."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.BatchNorm(use_running_average=not train)(nn.Dense(4)(x))
        return nn.Dense(3)(nn.Dropout(0.1, deterministic=not train)(nn.relu(x)))


class NNXMLP(nnx.Module):
    """Two dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.inner = nnx.Linear(5, 4, rngs=rngs)
        self.outer = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.outer(nnx.relu(self.inner(x)))


class NNXNormed(nnx.Module):
    """Batch norm and dropout between two dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.inner = nnx.Linear(5, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)
        self.outer = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.outer(self.dropout(nnx.relu(self.norm(self.inner(x)))))


def plain_functions() -> models.Model:
    def init(key: jax.Array) -> Any:
        return {"w": jax.random.normal(key, (5, 3)), "b": jnp.zeros((1, 3))}

    def apply(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["w"] + jnp.broadcast_to(params["b"], (x.shape[0], 3))

    return models.from_functions(init, apply)


USERS = {
    "linen": lambda: models.from_linen(UserLinen(), (5,)),
    "functions": plain_functions,
    "nnx mlp": lambda: models.from_nnx(NNXMLP),
    "nnx batch norm": lambda: models.from_nnx(NNXNormed),
}


@pytest.mark.parametrize("kind", USERS)
def test_a_users_own_model_trains(kind: str, clients: ClientData, made_up: Any) -> None:
    model = USERS[kind]()
    variables = made_up(model.init)
    state, infos = rounds_of(model, variables, clients)
    check(state, infos, variables)
    assert set(state.variables) == (
        {"params", "batch_stats"} if "norm" in kind or kind == "linen" else {"params"}
    )
