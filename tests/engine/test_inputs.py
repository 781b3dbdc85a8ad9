"""Wrong inputs of the core are refused in one line, or counted out of the round."""

import re

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy

from fedsparsify_jax import algorithms, models
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientData

RATE = 0.5


def federation(sizes=(8, 8, 8), classes=None):
    """Three clients of 8 examples with 4 features, regression or classes."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 8, 4)).astype(np.float32)
    y = rng.normal(size=(3, 8, 1)).astype(np.float32)
    if classes is not None:
        y = rng.integers(0, classes, (3, 8)).astype(np.int32)
    return ClientData(jnp.asarray(x), jnp.asarray(y), jnp.asarray(sizes, jnp.int32))


def start_and_step(algorithm, variables):
    return algorithm.init(jax.random.key(0), variables), jax.jit(algorithm.step)


def one_round(data, *, loss_fn=None, width=3, sizes=None, **options):
    """A round of FedAvg on a linear model that starts at zero."""
    if loss_fn is not None:
        options["loss_fn"] = loss_fn
    plain = {"learning_rate": RATE, "local_epochs": 1, "batch_size": 8}
    algorithm = algorithms.fedavg(
        toy.linear(np.zeros((4, width), np.float32)).apply, **plain | options
    )
    variables = {"params": {"w": jnp.zeros((4, width))}}
    state, step = start_and_step(algorithm, variables)
    return step(jax.random.key(1), state, data)


# -- 1: the shape of the loss


@pytest.mark.parametrize(
    ("loss_fn", "squeezed", "shape"),
    [
        (lambda o, y: (o - y) ** 2, False, [8, 1]),
        (lambda o, y: (o - y[:, None].T) ** 2, True, [8, 8]),
        (lambda o, y: jnp.mean((o - y) ** 2), False, []),
    ],
)
def test_a_loss_that_is_not_one_number_an_example_is_refused(loss_fn, squeezed, shape):
    data = federation()
    if squeezed:
        data = data._replace(y=data.y[..., 0])
    message = re.escape(f"loss_fn returns shape {shape} for")
    with pytest.raises(InputError, match=message) as error:
        one_round(data, loss_fn=loss_fn, width=1)
    assert "[B] = [8]" in str(error.value)


def test_the_right_loss_of_the_same_examples_is_the_mean_over_them():
    data = federation()
    _, info = one_round(data, loss_fn=lambda o, y: (o - y)[:, 0] ** 2, width=1)
    np.testing.assert_allclose(info.loss, np.mean(np.square(data.y)), rtol=1e-5)


def test_whole_numbers_are_no_loss():
    with pytest.raises(InputError, match="loss_fn returns int32: losses must be float"):
        one_round(federation(), loss_fn=lambda o, y: jnp.ones(len(y), jnp.int32))


# -- 2: parameters that are one array


@pytest.mark.parametrize("name", ["fedsparsify_global", "fedsparsify_local"])
def test_parameters_that_are_one_array_are_pruned(name):
    model = models.from_functions(
        lambda key: jax.random.normal(key, (4, 3)), lambda params, x: x @ params
    )
    algorithm = getattr(algorithms, name)(
        model.apply, schedule=lambda t: 0.5, local_epochs=1, batch_size=8
    )
    state, step = start_and_step(algorithm, model.init(jax.random.key(0)))
    state, info = step(jax.random.key(1), state, federation(classes=3))
    assert float(info.sparsity) == 0.5
    assert np.count_nonzero(state.variables["params"]) == 6


# -- 4: labels outside the classes


@pytest.mark.parametrize("label", [3, 7, -1])
def test_a_client_with_a_label_outside_the_classes_is_rejected(label):
    data = federation(classes=3)
    spoiled = data._replace(y=data.y.at[1, 5].set(label))
    alone = jax.tree.map(lambda leaf: leaf[jnp.array([0, 2])], data)
    with jax.debug_nans(False):
        state, info = one_round(spoiled)
        others, _ = one_round(alone)
    assert (int(info.merged), int(info.rejected)) == (2, 1)
    assert np.isfinite(info.loss)
    np.testing.assert_allclose(toy.weights(state), toy.weights(others), rtol=1e-5)


# -- 5: sizes of clients


@pytest.mark.parametrize("size", [9, 1000, -2])
def test_a_concrete_size_beyond_its_row_is_refused(size):
    algorithm = algorithms.fedavg(toy.linear(np.zeros((4, 3), np.float32)).apply)
    state = algorithm.init(jax.random.key(0), {"params": {"w": jnp.zeros((4, 3))}})
    with pytest.raises(InputError, match=f"client 1 has {size} examples in a row of 8"):
        algorithm.step(jax.random.key(0), state, federation((8, size, 8), classes=3))


def test_a_traced_size_beyond_its_row_counts_as_the_whole_row():
    states = [
        one_round(federation(sizes, classes=3))[0]
        for sizes in ((2, 8, 8), (2, 1000, 8))
    ]
    np.testing.assert_array_equal(*map(toy.weights, states))


# -- 6: 64 bits


@pytest.mark.parametrize("where", ["params", "data", "both"])
def test_64_bits_train_as_32_do_and_keep_their_dtype(where):
    data = federation()
    with jax.enable_x64(True):
        loss_fn = lambda o, y: (o - y)[:, 0] ** 2
        start = np.zeros((4, 1), np.float32 if where == "data" else np.float64)
        if where != "params":
            data = data._replace(x=jnp.asarray(data.x, jnp.float64))
        algorithm = algorithms.fedavg(
            toy.linear(start).apply,
            learning_rate=0.05,
            local_epochs=1,
            batch_size=8,
            loss_fn=loss_fn,
        )
        state, step = start_and_step(algorithm, {"params": {"w": jnp.asarray(start)}})
        state, _ = step(jax.random.key(1), state, data)
        assert state.variables["params"]["w"].dtype == start.dtype
    x, y = np.asarray(data.x, np.float64), np.asarray(data.y, np.float64)
    steps = [2 * 0.05 * np.mean(xs * ys, axis=0) for xs, ys in zip(x, y, strict=True)]
    expected = np.mean(steps, axis=0)[:, None]
    np.testing.assert_allclose(toy.weights(state), expected, rtol=1e-5)


# -- 7: optimizers


def fitted(optimizer, rounds=3, **options):
    """One client's loss in some rounds of a classification that is linear."""
    data = jax.tree.map(lambda leaf: leaf[:1], federation(classes=3))
    algorithm = algorithms.fedavg(
        toy.linear(np.zeros((4, 3), np.float32)).apply,
        optimizer=optimizer,
        local_epochs=4,
        batch_size=8,
        num_clients=1,
        **options,
    )
    state, step = start_and_step(algorithm, {"params": {"w": jnp.zeros((4, 3))}})
    losses = []
    for t in range(rounds):
        state, info = step(jax.random.key(t), state, data)
        losses.append(float(info.loss))
    return losses


WITH_EXTRAS = {
    "polyak": optax.polyak_sgd(0.5),
    "lbfgs": optax.lbfgs(),
    "plateau": optax.chain(
        optax.sgd(0.5), optax.contrib.reduce_on_plateau(patience=2, cooldown=0)
    ),
    "sophia": optax.contrib.sophia(0.05),
    "sam": optax.contrib.sam(
        optax.sgd(0.5),
        optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
        opaque_mode=True,
    ),
    "momo": optax.contrib.momo(0.5),
}


@pytest.mark.parametrize("kept", ["fresh", "kept"])
@pytest.mark.parametrize("name", WITH_EXTRAS)
def test_optimizers_get_the_loss_its_gradient_and_its_function(name, kept):
    first, *_, last = fitted(WITH_EXTRAS[name], optimizer_state=kept)
    assert last < 0.95 * first


def test_the_line_search_sees_the_loss_of_the_masked_model():
    """Under masks that keep nothing, no step changes the value of the search."""
    seen = []

    def update(updates, state, params, *, value, value_fn, **_):
        jax.debug.callback(lambda *pair: seen.append(pair), value, value_fn(params))
        moved = jax.tree.map(lambda leaf: leaf + 100.0, params)
        jax.debug.callback(lambda *pair: seen.append(pair), value, value_fn(moved))
        return updates, state

    search = optax.GradientTransformationExtraArgs(lambda params: (), update)
    algorithm = algorithms.fedsparsify_global(
        toy.linear(np.zeros((4, 3), np.float32)).apply,
        schedule=lambda t: 0.0,
        optimizer=search,
        local_epochs=1,
        batch_size=8,
    )
    state, step = start_and_step(algorithm, {"params": {"w": jnp.ones((4, 3))}})
    state = state._replace(masks={"params": {"w": jnp.zeros((4, 3), bool)}})
    step(jax.random.key(0), state, federation(classes=3))
    jax.effects_barrier()
    assert len(seen) == 6
    for value, searched in seen:
        np.testing.assert_allclose(value, searched)


def test_masked_optimizers_take_trees_of_the_users_own_params():
    frozen = {"w": False}
    masked = optax.chain(
        optax.masked(optax.set_to_zero(), {"w": True}),
        optax.masked(optax.sgd(1.0), frozen),
    )
    first, *_, last = fitted(masked)
    assert first == last


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (optax.adam, "call it first, as in optax.adam"),
        (0.1, "optimizer is 0.1: it must be an Optax transformation"),
        (
            optax.lookahead(optax.sgd(0.1), 5, 0.5),
            "its update fails .*no attribute 'fast'.* with the leaves w",
        ),
        (
            optax.masked(optax.sgd(0.1), {"params": {"w": True}}),
            "its init fails .*the tree of parameters, here with the leaves w",
        ),
    ],
)
def test_an_optimizer_that_is_none_is_refused_with_the_reason(optimizer, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        fitted(optimizer)


# -- 8 and 9: variables


def test_frozen_variables_are_those_of_plain_dicts():
    data, w = federation(classes=3), jnp.ones((4, 3))
    plain = {"params": {"w": w}, "seen": {"deep": {"count": jnp.zeros(2)}}}
    algorithm = algorithms.fedavg(toy.linear(w).apply, local_epochs=1, batch_size=8)
    inner = {"params": plain["params"], "seen": flax.core.freeze(plain["seen"])}
    states = []
    for variables in (plain, flax.core.freeze(plain), inner):
        state, step = start_and_step(algorithm, variables)
        states.append(step(jax.random.key(0), state, data)[0])
    chex.assert_trees_all_equal(*states)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"params": {"w": jnp.arange(3)}}, "params/w is int32.*another collection"),
        ({"params": {"w": jnp.ones(3, bool)}}, "params/w is bool"),
        ({"params": {"w": jnp.ones(3, jnp.float8_e4m3fn)}}, "params/w is float8_e4m3"),
        ({"params": {"w": jnp.ones(3, complex)}}, "params/w is complex64"),
        ({"params": {"w": "text"}}, "params/w is 'text', no array"),
        ({"params": {}}, "params has no numbers"),
        ({"params": {"w": jnp.ones((0, 3))}}, "params has no numbers"),
        ({"params": {"w": jax.random.key(0)}}, "params/w is a PRNG key"),
        (
            {"params": {"w": jnp.ones(3)}, "rng": {"key": jax.random.key(0)}},
            "rng/key is a PRNG key, which cannot be merged: keep keys out",
        ),
        ({"w": jnp.ones(3)}, r"must be a dict of collections .* got the keys \['w'\]"),
        ([jnp.ones(3)], "must be a dict of collections .* got a list"),
        (jnp.ones(3), "must be a dict of collections .* got a ArrayImpl"),
    ],
)
def test_variables_that_cannot_be_trained_are_refused_by_path(variables, message):
    algorithm = algorithms.fedavg(toy.linear(np.zeros((4, 3), np.float32)).apply)
    with pytest.raises(InputError, match=message):
        algorithm.init(jax.random.key(0), variables)


# -- 9: forward passes


def answering(answer):
    return lambda variables, x, *, train=False, key=None, valid=None: answer(
        variables, x
    )


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda v, x: x @ v["params"]["w"], r"an array of shape \[8, 3\]: it must ret"),
        (lambda v, x: (x, x, {}), "returns a tuple of 3"),
        (lambda v, x: {"logits": x}, "returns a dict"),
        (lambda v, x: None, "returns a NoneType"),
        (lambda v, x: (x @ v["params"]["w"], None), "a NoneType beside its outputs"),
        (lambda v, x: (jnp.ones(3), {}), r"shape \[3\] for a batch of 8"),
        (lambda v, x: (jnp.float32(1), {}), r"shape \[\] for a batch of 8"),
        (lambda v, x: (x @ v["params"]["w"], v), "collection 'params': it may only"),
        (lambda v, x: (x @ v["params"]["w"], {"new": x}), "collection 'new': it may"),
        (
            lambda v, x: (x @ v["params"]["w"], {"seen": {"m": jnp.ones(1)}}),
            "changes the structure of 'seen'",
        ),
        (
            lambda v, x: (x @ v["params"]["w"], {"seen": {"n": jnp.ones(5)}}),
            r"changes the shape of seen/n, from \[2\] to \[5\]",
        ),
    ],
)
def test_a_forward_pass_that_returns_something_else_is_refused(answer, message):
    algorithm = algorithms.fedavg(answering(answer), local_epochs=1, batch_size=8)
    variables = {"params": {"w": jnp.zeros((4, 3))}, "seen": {"n": jnp.zeros(2)}}
    state = algorithm.init(jax.random.key(0), variables)
    with pytest.raises(InputError, match=f"apply_fn .*{message}"):
        algorithm.step(jax.random.key(1), state, federation(classes=3))


@pytest.mark.parametrize(
    ("apply_fn", "message"),
    [
        (lambda params, x: x @ params["w"], "unexpected keyword argument 'train'"),
        (lambda batch, *, train, key, valid: batch, "too many positional arguments"),
        (lambda v, x, *, train, key, valid, rate: x, "missing a required .*'rate'"),
        (
            nn.Dense(3).apply,
            "apply_fn: .*'train'; wrap a Flax module by models.from_linen",
        ),
        ("mlp", "apply_fn is 'mlp', no function: wrap a Flax module"),
    ],
)
def test_a_forward_pass_that_takes_something_else_is_refused(apply_fn, message):
    with pytest.raises(InputError, match=message):
        algorithm = algorithms.fedavg(apply_fn, local_epochs=1, batch_size=8)
        state = algorithm.init(jax.random.key(0), {"params": {"w": jnp.zeros((4, 3))}})
        algorithm.step(jax.random.key(1), state, federation(classes=3))
