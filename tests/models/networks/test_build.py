"""Every registered model: its size, its answers, and what it refuses."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedsparsify_jax import models
from fedsparsify_jax.errors import InputError

PAPER = {
    "mlp": ((28, 28), 10, 118_282, 0),
    "cnn": ((32, 32, 3), 10, 1_609_930, 384),
    "vgg16_bn": ((32, 32, 3), 100, 14_774_436, 8_448),
    "resnet56": ((32, 32, 3), 10, 853_018, 4_064),
    "brain_age_cnn": ((91, 109, 91, 1), 1, 2_948_801, 1_600),
    "lstm": ((200,), 1, 3_397_761, 0),
    "lenet5": ((28, 28), 10, 61_706, 0),
    "femnist_cnn": ((28, 28), 62, 1_206_590, 0),
    "cnn_pfl": ((32, 32, 3), 10, 1_626_442, 0),
    "resnet18_gn": ((24, 24, 3), 100, 11_227_812, 0),
    "vit_tiny": ((32, 32, 3), 10, 5_362_762, 0),
    "transformer": ((200,), 2, 4_019_202, 0),
}

TINY: dict[str, dict[str, Any]] = {
    "mlp": {"input_shape": (4, 4), "hidden": (6,)},
    "cnn": {"input_shape": (8, 8, 3), "widths": (3, 4), "hidden": 5},
    "vgg16_bn": {"input_shape": (8, 8), "widths": ((3,), (4, 4))},
    "resnet56": {"input_shape": (7, 8, 3), "widths": (2, 5), "blocks": 1},
    "brain_age_cnn": {"input_shape": (5, 4, 6), "widths": (2, 3), "hidden": 4},
    "lstm": {"input_shape": (6,), "vocabulary": 9, "embedding": 4, "units": (3, 2)},
    "lenet5": {"input_shape": (12, 12), "widths": (2, 3), "hidden": (5,)},
    "femnist_cnn": {"input_shape": (7, 8), "widths": (2, 3), "hidden": 5},
    "cnn_pfl": {"input_shape": (6, 6, 3), "widths": (2,), "hidden": 5},
    "resnet18_gn": {"input_shape": (8, 9), "widths": (2, 4), "blocks": (1, 1)}
    | {"strides": (1, 2)},
    "vit_tiny": {"input_shape": (8, 4), "width": 8, "layers": 1, "heads": 2}
    | {"hidden": 6},
    "transformer": {"input_shape": (6,), "vocabulary": 9, "width": 4, "layers": 1}
    | {"heads": 2, "hidden": 6},
}


def tiny(name: str, num_classes: int = 2, **changed: Any) -> models.Model:
    return models.build(name, num_classes=num_classes, **(TINY[name] | changed))


def answer(model: models.Model, variables: Any, x: jax.Array) -> jax.Array:
    return jax.jit(lambda variables, x: model.apply(variables, x)[0])(variables, x)


def inputs(name: str, batch: int = 3) -> jax.Array:
    shape = (batch, *TINY[name]["input_shape"])
    rng = np.random.default_rng(0)
    if models.reads_tokens(name):
        return jnp.asarray(rng.integers(0, 9, shape), jnp.int32)
    return jnp.asarray(rng.normal(size=shape), jnp.float32)


def size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_tables_cover_the_registry() -> None:
    assert set(PAPER) == set(TINY) == set(models.NAMES)


@pytest.mark.parametrize("name", models.NAMES)
def test_has_the_size_of_the_paper(name: str, key: jax.Array) -> None:
    shape, num_classes, parameters, statistics = PAPER[name]
    model = models.build(name, input_shape=shape, num_classes=num_classes)
    variables = jax.eval_shape(model.init, key)
    assert size(variables["params"]) == parameters
    assert size(variables.get("batch_stats", {})) == statistics
    x = jax.ShapeDtypeStruct((2, *shape), jnp.uint8)
    outputs, changed = jax.eval_shape(model.apply, variables, x)
    assert outputs.shape == (2, num_classes) and outputs.dtype == jnp.float32
    assert changed == {}


def test_brain_volumes_may_come_without_a_channel_axis(key: jax.Array) -> None:
    shape = (91, 109, 91)
    model = models.build("brain_age_cnn", input_shape=shape, num_classes=1)
    variables = jax.eval_shape(model.init, key)
    assert size(variables["params"]) == PAPER["brain_age_cnn"][2]
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    outputs, _ = jax.eval_shape(model.apply, variables, x)
    assert outputs.shape == (1, 1)


def test_two_classes_give_the_text_model_a_second_logit(key: jax.Array) -> None:
    model = models.build("lstm", input_shape=(200,), num_classes=2)
    assert size(jax.eval_shape(model.init, key)) == 3_397_761 + 129


@pytest.mark.parametrize("name", models.NAMES)
def test_trains_a_step_and_leaves_the_structure_alone(
    name: str, key: jax.Array, made_up: Any
) -> None:
    model, x = tiny(name), inputs(name)
    variables = made_up(model.init)

    @jax.jit
    def step(variables: Any, key: jax.Array) -> Any:
        def loss(params: Any) -> Any:
            outputs, changed = model.apply(
                variables | {"params": params}, x, train=True, key=key
            )
            return jnp.mean((outputs - 1.0) ** 2), changed

        (value, changed), gradient = jax.value_and_grad(loss, has_aux=True)(
            variables["params"]
        )
        params = jax.tree.map(lambda w, g: w - 1e-3 * g, variables["params"], gradient)
        return value, gradient, variables | changed | {"params": params}

    before, gradient, after = step(variables, key)
    assert jax.tree.structure(after) == jax.tree.structure(variables)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(gradient))
    assert step(after, jax.random.clone(key))[0] < before
    for name, statistics in variables.items():
        if name != "params":
            moved = jax.tree.map(lambda a, b: jnp.any(a != b), statistics, after[name])
            assert all(jax.tree.leaves(moved))


def test_initialisation_is_glorot_uniform_with_zero_biases(key: jax.Array) -> None:
    params = tiny("cnn").init(key)["params"]
    for name in ("Conv_1", "Dense_0"):
        *window, ins, outs = params[name]["kernel"].shape
        limit = np.sqrt(6 / (np.prod(window, dtype=int) * (ins + outs)))
        largest = np.abs(params[name]["kernel"]).max()
        assert 0.8 * limit < largest <= limit
        np.testing.assert_array_equal(params[name]["bias"], 0)


def test_the_age_starts_at_the_mean_of_the_population(key: jax.Array) -> None:
    model = tiny("brain_age_cnn", 1, widths=(), hidden=1)
    params = model.init(key)["params"]
    np.testing.assert_array_equal(params["Conv_1"]["bias"], np.float32(62.68))


@pytest.mark.parametrize(
    "name", ["cnn", "brain_age_cnn", "resnet56", "resnet18_gn", "vit_tiny"]
)
def test_both_convolutions_give_the_same_answer(name: str, made_up: Any) -> None:
    variables = made_up(tiny(name).init)
    answers = [
        answer(tiny(name, conv=conv), variables, inputs(name))
        for conv in ("patches", "xla")
    ]
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 9, 3)])
def test_any_volume_is_large_enough(shape: tuple[int, ...], made_up: Any) -> None:
    model = tiny("brain_age_cnn", 1, input_shape=shape, widths=(2,) * 5)
    x = jnp.linspace(-1.0, 1.0, 2 * int(np.prod(shape))).reshape(2, *shape)
    outputs = answer(model, made_up(model.init), x)
    assert outputs.shape == (2, 1) and np.isfinite(outputs).all()


def test_dropout_differs_by_key_and_is_off_in_evaluation(made_up: Any) -> None:
    model, x = tiny("cnn", dropout=0.5, hidden=32), inputs("cnn")
    variables = made_up(model.init)
    one, two = jax.random.split(jax.random.key(1))

    @jax.jit
    def train(key: jax.Array) -> jax.Array:
        return model.apply(variables, x, train=True, key=key)[0]

    first, again, other = train(one), train(jax.random.clone(one)), train(two)
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    keyed = model.apply(variables, x, key=jax.random.key(2))[0]
    np.testing.assert_allclose(keyed, answer(model, variables, x), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("cmn", {"input_shape": (8, 8)}, "unknown model 'cmn': did you mean 'cnn'"),
        ("cnn", {"input_shape": (8,)}, r"shape \[H, W\] or \[H, W, C\]: got \(8,\)"),
        ("lstm", {"input_shape": (8, 8)}, r"shape \[L\], tokens: got"),
        ("brain_age_cnn", {"input_shape": (9, 9)}, r"\[D, H, W\] or"),
        ("mlp", {"input_shape": (0,)}, r"got \(0,\)"),
        ("mlp", {"input_shape": (4,), "num_classes": 0}, "num_classes is 0"),
        ("cnn", {"input_shape": (8, 8), "width": 3}, "did you mean 'widths'"),
        ("transformer", {"input_shape": (8, 8)}, r"shape \[L\], tokens: got"),
    ],
)
def test_refuses_what_cannot_be(
    name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        models.build(name, **({"num_classes": 2} | arguments))


@pytest.mark.parametrize("name", ["resnet18_gn"])
def test_first_blocks_have_the_layers_of_the_whole_and_a_head(
    name: str, key: jax.Array
) -> None:
    model = tiny(name)
    part, whole = (jax.eval_shape(m.init, key)["params"] for m in model.parts)
    heads = {layer for layer in part if layer.startswith("head_")}
    assert heads == {"head_1"} and set(part) - heads < set(whole)
    assert all(part[layer] == whole[layer] for layer in set(part) - heads)
