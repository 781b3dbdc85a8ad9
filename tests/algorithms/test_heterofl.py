"""HeteroFL and FedRolex against networks that are really narrower."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_clients
from toy import round_keys, run_rounds

from fedsparsify_jax import algorithms, client_map, models
from fedsparsify_jax.algorithms.heterofl import window
from fedsparsify_jax.cli import main
from fedsparsify_jax.types import ClientData

MLP = models.build("mlp", input_shape=(5,), num_classes=3, hidden=(6, 4))
SIZES, RATE = (7, 4, 1, 6), 0.3
LAYERS = ("Dense_0", "Dense_1", "Dense_2")
# One batch holds a whole client, so that no order matters.
PLAIN = {"learning_rate": RATE, "local_epochs": 2, "batch_size": 7, "num_clients": 4}
BOTH = pytest.mark.parametrize("name", ["heterofl", "fedrolex"])


def built(name, model=MLP, **options):
    return getattr(algorithms, name)(model.apply, **PLAIN | options)


def played(algorithm, clients, rounds=3, model=MLP):
    state = algorithm.init(jax.random.key(1), model.init(jax.random.key(2)))
    return run_rounds(jax.jit(algorithm.step), state, clients, round_keys(rounds))


def narrow_training(params, x, y, width, classes, clip):
    """Two steps of gradient descent of an MLP in NumPy, on one client's examples."""
    params = [(kernel.copy(), bias.copy()) for kernel, bias in params]
    for _ in range(PLAIN["local_epochs"]):
        inputs, before = [x], []
        for n, (kernel, bias) in enumerate(params):
            z = inputs[-1] @ kernel + bias
            if n < 2:
                z = z / width
                inputs.append(np.maximum(z, 0))
            before.append(z)
        logits = np.where(classes, before[-1], 0)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        slope = np.where(classes, p - np.eye(3)[y], 0) / len(y)
        steps = []
        for n in (2, 1, 0):
            kernel, _ = params[n]
            scaled = slope if n == 2 else slope / width
            steps.insert(0, (inputs[n].T @ scaled, scaled.sum(0)))
            if n:
                slope = (scaled @ kernel.T) * (before[n - 1] > 0)
        length = np.sqrt(sum((g**2).sum() for step in steps for g in step))
        rate = RATE * min(1, clip / length)
        params = [
            (w - rate * dw, b - rate * db)
            for (w, b), (dw, db) in zip(params, steps, strict=True)
        ]
    return params


def oracle(params, clients, t, widths, rolling, mask_classes, clip):
    """The global parameters after a round, from slices of them."""
    totals = [[np.zeros_like(a) for a in layer] for layer in params]
    weights = [[np.zeros_like(a) for a in layer] for layer in params]
    for k, size in enumerate(SIZES):
        width = widths[k % len(widths)]
        units = [np.arange(5)]
        for count in (6, 4):
            start = (t - 1) % count if rolling else 0
            units.append((start + np.arange(int(np.ceil(width * count)))) % count)
        units.append(np.arange(3))
        x, y = np.asarray(clients.x[k, :size]), np.asarray(clients.y[k, :size])
        classes = np.isin(np.arange(3), y) if mask_classes else np.ones(3, bool)
        start = [
            (w[np.ix_(units[n], units[n + 1])], b[units[n + 1]])
            for n, (w, b) in enumerate(params)
        ]
        trained = narrow_training(start, x, y, width, classes, clip)
        for n, (w, b) in enumerate(trained):
            outputs = units[n + 1] if n < 2 else units[3][classes]
            pick = slice(None) if n < 2 else classes
            place = np.ix_(units[n], outputs)
            totals[n][0][place] += size * w[:, pick]
            weights[n][0][place] += size
            totals[n][1][outputs] += size * b[pick]
            weights[n][1][outputs] += size
    return [
        tuple(
            np.where(v > 0, total / np.maximum(v, 1), old)
            for total, v, old in zip(*layer, strict=True)
        )
        for layer in zip(totals, weights, params, strict=True)
    ]


@BOTH
@pytest.mark.parametrize(("mask_classes", "clip"), [(False, 0.3), (True, 1.0)])
def test_rounds_are_numpys(name, mask_classes, clip):
    clients, widths = make_clients(SIZES), (0.5, 0.3)
    # Clients of one or two of the three classes.
    if mask_classes:
        clients = clients._replace(y=clients.y % jnp.array([[2], [3], [3], [1]]))
    given = {} if clip == 1 else {"gradient_clip": clip}  # 1 is the default
    algorithm = built(name, widths=widths, mask_classes=mask_classes, **given)
    states, infos = played(algorithm, clients, rounds=4)
    params = [
        (leaf["kernel"].astype(float), leaf["bias"].astype(float))
        for leaf in (states[0].variables["params"][layer] for layer in LAYERS)
    ]
    for t, state in enumerate(states[1:], start=1):
        rolling = name == "fedrolex"
        params = oracle(params, clients, t, widths, rolling, mask_classes, clip)
        for layer, (kernel, bias) in zip(LAYERS, params, strict=True):
            new = state.variables["params"][layer]
            np.testing.assert_allclose(new["kernel"], kernel, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(new["bias"], bias, rtol=1e-4, atol=1e-5)
    # 3 and 2 units at one half, 2 and 2 at 0.3, of which all classes are read.
    held = [5 * 3 + 3 + 3 * 2 + 2 + 2 * 3 + 3, 5 * 2 + 2 + 2 * 2 + 2 + 2 * 3 + 3]
    assert infos[-1].bytes_down.tolist() == [4 * n for n in held * 2]
    if not mask_classes:
        assert infos[-1].bytes_up.tolist() == [4 * n for n in held * 2]
    else:  # kernel and bias of a class are 3 numbers
        missing = [
            3 - len(set(np.asarray(clients.y[k, :size]).tolist()))
            for k, size in enumerate(SIZES)
        ]
        assert max(missing) > 0
        sent = [4 * (n - 3 * m) for n, m in zip(held * 2, missing, strict=True)]
        assert infos[-1].bytes_up.tolist() == sent


@BOTH
@pytest.mark.parametrize("clients", [client_map.vmapped(), client_map.chunked(1)])
def test_at_full_width_it_is_fedavg_bit_for_bit(name, clients):
    options = {"batch_size": 3, "client_map": clients, "participation": 0.75}
    options |= {"gradient_clip": 1.0}
    data = make_clients(SIZES)
    (*_, state), infos = played(built(name, widths=(1.0,), **options), data)
    (*_, expected), dense = played(built("fedavg", **options), data)
    chex.assert_trees_all_equal(state.variables, expected.variables)
    assert infos[-1].loss == dense[-1].loss


def test_the_window_rolls_over_all_units_alike():
    windows = np.array([window(7, (1.0, 0.4), 1, t) for t in range(7)])
    assert windows.sum(1).tolist() == [3] * 7  # ceil(2.8) of 7
    assert windows.sum(0).tolist() == [3] * 7
    assert windows[0].tolist() == [True] * 3 + [False] * 4


@pytest.mark.parametrize("name, covers", [("heterofl", False), ("fedrolex", True)])
def test_narrow_clients_train_their_units_alone(name, covers):
    states, _ = played(built(name, widths=(0.3,)), make_clients(SIZES), rounds=6)
    kernels = [s.variables["params"]["Dense_0"]["kernel"] for s in states]
    moved = (kernels[0] != kernels[-1]).any(0)
    assert moved.tolist() == ([True] * 6 if covers else [True] * 2 + [False] * 4)


def cnn(width):
    return models.build(
        "cnn",
        input_shape=(16, 16, 1),
        num_classes=3,
        widths=(2 * width,) * 3,
        hidden=3 * width,
        dropout=0.0,
    )


def scaled(model, width):
    """The narrow network with layers but the last one divided in training."""

    def apply(variables, x, *, train=False, **flags):
        if train:
            layers = variables["params"]
            hidden = {
                name: jax.tree.map(lambda a: a / width, layer)
                for name, layer in layers.items()
                if name != "Dense_1" and "Norm" not in name
            }
            variables = variables | {"params": layers | hidden}
        return model.apply(variables, x, train=train, **flags)

    return model._replace(apply=apply)


def cut(wide, narrow):
    """Takes the first units of every layer; a flattened image has 4 places."""

    def leaf(a, like):
        if a.ndim == 2 and a.shape[0] % 4 == 0 and a.shape[0] == 4 * 4:
            a = a.reshape(4, 4, -1)[:, : like.shape[0] // 4].reshape(like.shape[0], -1)
        return a[tuple(slice(size) for size in like.shape)]

    return jax.tree.map(leaf, wide, narrow)


def test_a_convolutional_network_of_half_width_is_the_narrow_one():
    """Convolutions, norms with their statistics, and the flattening of an image."""
    wide, narrow = cnn(2), scaled(cnn(1), 0.5)
    rng = np.random.default_rng(0)
    clients = ClientData(
        jnp.asarray(rng.normal(size=(4, 5, 16, 16, 1)), jnp.float32),
        jnp.asarray(rng.integers(0, 3, (4, 5)), jnp.int32),
        jnp.array([5, 4, 3, 5], jnp.int32),
    )
    options = {"learning_rate": 0.05, "gradient_clip": 1.0}
    algorithm = built("heterofl", wide, widths=(0.5,), **options)
    (first, *_, state), _ = played(algorithm, clients, 2, wide)
    small = built("fedavg", narrow, **options)
    start = cut(first.variables, narrow.init(jax.random.key(0)))
    states, _ = run_rounds(
        jax.jit(small.step),
        small.init(jax.random.key(1), start),
        clients,
        round_keys(2),
    )
    expected = states[-1].variables
    chex.assert_trees_all_close(cut(state.variables, expected), expected, atol=2e-5)


def test_a_residual_network_is_refused():
    model = models.build("resnet56", input_shape=(8, 8, 1), num_classes=3, blocks=1)
    algorithm = built("heterofl", model)
    state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
    clients = ClientData(
        jnp.zeros((4, 1, 8, 8, 1)), jnp.zeros((4, 1), int), jnp.ones(4, int)
    )
    with pytest.raises(ValueError, match="something leads around Block_0/Conv_0"):
        jax.eval_shape(algorithm.step, jax.random.key(2), state, clients)


@pytest.mark.parametrize("widths", [(), (0.0,), (1.0, 1.5)])
def test_widths_out_of_range_are_refused(widths):
    with pytest.raises(ValueError, match=r"widths are .*: expected one or more"):
        algorithms.fedrolex(MLP.apply, widths=widths)


@pytest.mark.parametrize(
    "options, line",
    [
        (["--widths", "1,2"], "--widths is '1,2': expected shares such as"),
        (["--widths", "half"], "--widths is 'half': expected shares such as"),
        (["--measure-bytes"], "clients are sent models of their own"),
        (
            ["--model", "resnet56"],
            "model 'resnet56' has no layers that feed one another",
        ),
    ],
)
def test_what_cannot_be_is_one_line(options, line, capsys, tmp_path):
    command = ["train", "--algorithm", "heterofl", "--rounds", "1", *options]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1, error
