"""Low-rank adapters: the base at first, trained alone, the same when merged."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedsparsify_jax import algorithms, models, trees
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientData

MLP = models.build("mlp", input_shape=(6,), num_classes=2, hidden=(5,))
CNN = models.build("cnn", input_shape=(4, 4), num_classes=2, widths=(2,), hidden=4)
NNX = models.from_nnx(lambda rngs: nnx.Linear(6, 2, rngs=rngs))


@pytest.mark.parametrize(
    ("model", "shape", "numbers"),
    [
        (MLP, (6,), 2 * (6 + 5 + 5 + 2)),
        (NNX, (6,), 2 * (6 + 2)),
        (CNN, (4, 4), 2 * (9 + 2 + 18 + 2 + 8 + 4 + 4 + 2)),
    ],
    ids=["mlp", "nnx", "cnn"],
)
def test_starts_as_the_base_with_two_factors_a_kernel(
    model: models.Model, shape: tuple[int, ...], numbers: int, made_up: Any
) -> None:
    base = made_up(model.init)
    adapters = models.lora(model, base, rank=2)
    variables = adapters.init(jax.random.key(0))
    assert trees.size(variables["params"]) == numbers
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, *shape)), jnp.float32)
    expected, _ = model.apply(base, x)
    found, changed = adapters.apply(variables, x)
    np.testing.assert_array_equal(found, expected)  # bit for bit
    assert changed == {}
    chex.assert_trees_all_equal(models.merge_lora(base, variables), base)


def test_only_adapters_train_are_purged_and_merge_into_the_base() -> None:
    base = MLP.init(jax.random.key(0))
    model = models.lora(MLP, base, rank=2, alpha=3.0)
    algorithm = algorithms.fedsparsify_global(
        model.apply,
        final_sparsity=0.5,
        rounds=2,
        local_epochs=2,
        batch_size=4,
        learning_rate=0.5,
    )
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 6)), jnp.float32)
    y = (x.sum(axis=-1) > 0).astype(jnp.int32)
    clients = ClientData(x, y, jnp.array([8, 7], jnp.int32))
    start = model.init(jax.random.key(1))
    state, step = algorithm.init(jax.random.key(2), start), jax.jit(algorithm.step)
    for number in range(2):
        state, info = step(jax.random.key(number), state, clients)
    total = trees.size(start)
    assert int(trees.nonzeros(state.masks)) == total - total // 2
    for weight, mask in zip(*map(jax.tree.leaves, state[:2]), strict=True):
        assert np.all(np.asarray(weight)[~np.asarray(mask)] == 0)
    assert sum(info.kept.values()) == total - total // 2
    whole = models.merge_lora(base, state.variables, alpha=3.0)
    found, _ = model.apply(state.variables, x[0])
    np.testing.assert_allclose(MLP.apply(whole, x[0])[0], found, rtol=1e-5, atol=1e-6)
    assert np.abs(found - MLP.apply(base, x[0])[0]).max() > 1e-3
    for layer in ("Dense_0", "Dense_1"):
        own, other = whole["params"][layer], base["params"][layer]
        np.testing.assert_array_equal(own["bias"], other["bias"])


def test_batch_statistics_move_as_usual(made_up: Any) -> None:
    model = models.build("cnn", input_shape=(4, 4), num_classes=2, widths=(2, 2))
    base = made_up(model.init)
    adapters = models.lora(model, base, rank=1)
    start = adapters.init(jax.random.key(0))
    x, key = jnp.ones((3, 4, 4)), jax.random.key(1)
    _, changed = adapters.apply(start, x, train=True, key=key)
    _, expected = model.apply(base, x, train=True, key=jax.random.clone(key))
    chex.assert_trees_all_equal(changed, expected)
    whole = models.merge_lora(base, {**start, **changed})
    chex.assert_trees_all_equal(whole["batch_stats"], changed["batch_stats"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank is 0: it must be at least 1"),
        ({"alpha": 0.0}, "alpha is 0.0: it must be above 0"),
        ({"adapted": lambda path: "bias" in path}, "bias is no matrix"),
        ({"adapted": lambda path: False}, "no kernel to adapt"),
    ],
)
def test_what_cannot_be_adapted(
    options: dict[str, Any], message: str, made_up: Any
) -> None:
    with pytest.raises(InputError, match=message):
        models.lora(MLP, made_up(MLP.init), **options)


def test_chosen_kernels_alone_are_adapted(made_up: Any) -> None:
    last = models.lora(MLP, made_up(MLP.init), adapted=lambda p: "Dense_1/kernel" in p)
    assert set(jax.eval_shape(last.init, jax.random.key(0))["params"]) == {"Dense_1"}


def test_parameters_in_lists_are_refused() -> None:
    listed = models.from_functions(
        lambda key: [jnp.ones((2, 2))], lambda params, x: x @ params[0]
    )
    with pytest.raises(InputError, match="nested dicts"):
        models.lora(listed, listed.init(jax.random.key(0)))
