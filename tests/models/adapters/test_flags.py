"""A network trains in training and evaluates otherwise, whatever it calls the flag."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedsparsify_jax import models
from fedsparsify_jax.models.adapters.layers import layers_of

FLAGS = ("train", "training", "is_training", "deterministic", "use_running_average")
INVERSE = ("deterministic", "use_running_average")
X = jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32)


def passes(model: models.Model, variables: Any) -> tuple[Any, Any, Any]:
    """Outputs in evaluation and in training, and the collections that changed."""
    outputs, nothing = model.apply(variables, X)
    np.testing.assert_array_equal(outputs, model.apply(variables, X)[0])
    assert nothing == {}
    key = jax.random.key(1)
    trained, changed = model.apply(variables, X, train=True, key=key)
    return outputs, trained, changed


def doubled_in_training(model: models.Model, variables: Any) -> None:
    outputs, trained, _ = passes(model, variables)
    np.testing.assert_allclose(outputs, X @ jnp.ones((5, 2)), rtol=1e-5)
    np.testing.assert_allclose(trained, 2 * outputs, rtol=1e-5)


def ones(init: Any) -> Any:
    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)


class Weight(nn.Module):
    """A linear layer that the networks below double in training."""

    @nn.compact
    def __call__(self, x: jax.Array, twice: bool) -> jax.Array:
        weight = self.param("weight", nn.initializers.ones, (5, 2))
        return x @ weight * (2 if twice else 1)


def class_of(base: type, text: str) -> Any:
    """The class ``Net`` of some source, in which FLAG stands for a flag's name."""
    names = {"nn": nn, "nnx": nnx, "Base": base, "Weight": Weight}
    exec(text, names)
    return names["Net"]


def linen_class(flag: str, signature: str, twice: str) -> Any:
    text = (
        "class Net(nn.Module):\n"
        "    FIELD\n"
        "    @nn.compact\n"
        f"    def __call__(self, x{signature}):\n"
        f"        return Weight()(x, {twice} == {flag not in INVERSE})\n"
    )
    field = f"{flag}: bool = True" if twice.startswith("self.") else "pass"
    return class_of(nn.Module, text.replace("FIELD", field))


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("signature", [", *, {}", ", {}", ", {}=True", ", {}=None"])
def test_a_linen_module_gets_the_flag_under_its_name(flag: str, signature: str) -> None:
    module = linen_class(flag, signature.format(flag), flag)()
    model = models.from_linen(module, (5,))
    doubled_in_training(model, ones(model.init))


@pytest.mark.parametrize("flag", FLAGS)
def test_a_flag_may_be_an_attribute_of_a_linen_module(flag: str) -> None:
    Net = linen_class(flag, "", f"self.{flag}")
    for value in (True, False):
        model = models.from_linen(Net(**{flag: value}), (5,))
        doubled_in_training(model, ones(model.init))


@pytest.mark.parametrize("flag", FLAGS)
def test_the_flag_is_found_behind_any_arguments(flag: str) -> None:
    Inner = linen_class(flag, f", *, {flag}", flag)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, **kwargs: Any) -> jax.Array:
            return Inner()(x, **kwargs)

    model = models.from_linen(Outer(), (5,))
    doubled_in_training(model, ones(model.init))


def test_two_flags_are_found_behind_any_arguments() -> None:
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, **kwargs: Any) -> jax.Array:
            def inner(*, training: bool, deterministic: bool) -> bool:
                return training and not deterministic

            return Weight()(x, inner(**kwargs))

    model = models.from_linen(Outer(), (5,))
    doubled_in_training(model, ones(model.init))


def test_padding_is_found_behind_any_arguments() -> None:
    class Normed(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, **kwargs: Any) -> jax.Array:
            return inner(nn.Dense(2)(x), **kwargs)

    def inner(x: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        return x if valid is None else jnp.where(valid[:, None], x, 7.0)

    model = models.from_linen(Normed(), (5,))
    outputs, _ = model.apply(ones(model.init), X, valid=jnp.arange(6) < 4)
    np.testing.assert_array_equal(outputs[4:], 7.0)


@pytest.mark.parametrize("fixed", [None, True, False])
def test_a_flag_that_is_attribute_and_argument_is_not_set_twice(
    fixed: bool | None,
) -> None:
    class Merged(nn.Module):
        deterministic: bool | None = None

        @nn.compact
        def __call__(
            self, x: jax.Array, deterministic: bool | None = None
        ) -> jax.Array:
            merged = nn.merge_param("flag", self.deterministic, deterministic)
            return Weight()(x, not merged)

    model = models.from_linen(Merged(deterministic=fixed), (5,))
    doubled_in_training(model, ones(model.init))


def test_flaxs_batch_norm_is_a_model() -> None:
    model = models.from_linen(nn.BatchNorm(momentum=0.5), (5,))
    variables = model.init(jax.random.key(0))
    outputs, trained, changed = passes(model, variables)
    np.testing.assert_allclose(outputs, X, rtol=1e-4)
    np.testing.assert_allclose(jnp.mean(trained, axis=0), 0.0, atol=1e-6)
    mean = changed["batch_stats"]["mean"]
    np.testing.assert_allclose(mean, 0.5 * jnp.mean(X, axis=0), rtol=1e-5)


class Block(nn.Module):
    """Doubles in training; a layer of a Sequential."""

    @nn.compact
    def __call__(self, x: jax.Array, training: bool = False) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (1,))
        with jax.numpy_rank_promotion("allow"):
            return x * scale * (2 if training else 1)


def test_every_layer_of_a_linen_sequential_gets_the_flag() -> None:
    inner = nn.Sequential([nn.relu, Block(), lambda x: Block()(x)])
    module = nn.Sequential([Block(), nn.BatchNorm(), nn.Dropout(0.5), inner])
    model = models.from_linen(module, (5,))
    variables = ones(model.init)
    outputs, _, changed = passes(model, variables)
    # Statistics of one, a scale of one, a bias of one.
    np.testing.assert_allclose(outputs, nn.relu(X), atol=1e-4)
    mean = changed["batch_stats"]["layers_1"]["mean"]
    np.testing.assert_allclose(mean, 0.99 + 0.01 * jnp.mean(2 * X, axis=0), rtol=1e-5)

    plain = models.from_linen(nn.Sequential([inner]), (5,))
    outputs, trained, _ = passes(plain, ones(plain.init))
    np.testing.assert_allclose(trained, 4 * outputs)


def test_a_sequential_inside_a_module_hands_flags_on() -> None:
    class Outer(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            # The second argument is the user's own, whatever the mode.
            return nn.Sequential([Block(), Block()])(x, training=False)

    model = models.from_linen(Outer(), (5,))
    outputs, trained, _ = passes(model, ones(model.init))
    np.testing.assert_allclose(trained, 2 * outputs)


def test_a_flag_fixed_in_a_layer_of_a_sequential_stays() -> None:
    layers = [nn.Dense(2), nn.Dropout(0.99, deterministic=True)]
    model = models.from_linen(nn.Sequential(layers), (5,))
    outputs, trained, _ = passes(model, ones(model.init))
    np.testing.assert_array_equal(outputs, trained)


def test_layers_of_a_sequential_are_listed() -> None:
    module = nn.Sequential([nn.Dense(4), nn.relu, nn.Dropout(0.5), nn.Dense(2)])
    model = models.from_linen(module, (5,))
    kinds = [layer.kind for layer in layers_of(model.apply, ones(model.init), X)]
    assert kinds == ["Dense", "Dropout", "Dense"]


def test_a_static_argument_of_remat_comes_by_position() -> None:
    Net = linen_class("train", ", train", "train")
    model = models.from_linen(nn.remat(Net, static_argnums=(2,))(), (5,))
    doubled_in_training(model, ones(model.init))


class NNXBase(nnx.Module):
    """One weight, doubled or not."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(jnp.ones((5, 2)))

    def go(self, x: jax.Array, twice: bool) -> jax.Array:
        return x @ self.weight[...] * (2 if twice else 1)


NNX = {
    "keyword": "    def __call__(self, x, *, FLAG): return self.go(x, FLAG == SIGN)",
    "default": "    def __call__(self, x, FLAG=True): return self.go(x, FLAG == SIGN)",
    "any arguments": (
        "    def __call__(self, x, **kwargs): return self.inner(x, **kwargs)\n"
        "    def inner(self, x, *, FLAG): return self.go(x, FLAG == SIGN)"
    ),
    "attribute": (
        "    def __init__(self, rngs):\n"
        "        super().__init__(rngs)\n"
        "        self.FLAG = True\n"
        "    def __call__(self, x): return self.go(x, self.FLAG == SIGN)"
    ),
}


@pytest.mark.parametrize("flag", FLAGS)
@pytest.mark.parametrize("kind", NNX)
def test_an_nnx_module_gets_the_flag_under_its_name(flag: str, kind: str) -> None:
    text = NNX[kind].replace("FLAG", flag).replace("SIGN", str(flag not in INVERSE))
    model = models.from_nnx(class_of(NNXBase, f"class Net(Base):\n{text}"))
    doubled_in_training(model, ones(model.init))


def test_the_first_layer_of_an_nnx_sequential_gets_the_flag() -> None:
    text = NNX["keyword"].replace("FLAG", "train").replace("SIGN", "True")
    Net = class_of(NNXBase, f"class Net(Base):\n{text}")
    model = models.from_nnx(lambda rngs: nnx.Sequential(Net(rngs), lambda x: x + 0.0))
    doubled_in_training(model, ones(model.init))


@pytest.mark.parametrize("flag", FLAGS)
def test_plain_functions_get_the_flag_and_the_key_if_they_name_them(flag: str) -> None:
    def inner(x: jax.Array, **flags: bool) -> jax.Array:
        assert set(flags) <= {flag}
        return x * (2 if flags[flag] == (flag not in INVERSE) else 1)

    names: dict[str, Any] = {"inner": inner}
    exec(
        f"def apply(params, x, {flag}): return inner(x @ params, {flag}={flag})", names
    )
    exec(f"def strict(x, *, {flag}): return inner(x, {flag}={flag})", names)
    exec("def handed_on(params, x, **any): return strict(x @ params, **any)", names)
    for name in ("apply", "handed_on"):
        model = models.from_functions(lambda key: jnp.ones((5, 2)), names[name])
        doubled_in_training(model, {"params": jnp.ones((5, 2))})


def test_plain_functions_may_drop_units() -> None:
    def apply(params: Any, x: jax.Array, *, train: bool, key: Any = None) -> jax.Array:
        kept = jax.random.bernoulli(key, 0.5, x.shape) if train else jnp.ones(x.shape)
        return (x * kept) @ params

    model = models.from_functions(lambda key: jnp.ones((5, 2)), apply)
    outputs, trained, _ = passes(model, {"params": jnp.ones((5, 2))})
    assert np.any(outputs != trained)
