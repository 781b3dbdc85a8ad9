"""Models that cannot be trained are refused in one line that says what to do."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedsparsify_jax import models
from fedsparsify_jax.errors import InputError

X = jnp.ones((6, 5))


def use(model: models.Model) -> Any:
    """Initialises, evaluates and trains a model."""
    variables = model.init(jax.random.key(0))
    model.apply(variables, X)
    return model.apply(variables, X, train=True, key=jax.random.key(1))


class Net(nn.Module):
    """A linear layer, and what the caller makes of its outputs."""

    end: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> Any:
        x = nn.Dense(3)(x)
        return x if self.end is None else self.end(x)


class Masked(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        return nn.Dense(3)(x) * mask


class HandedOn(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, **kwargs: Any) -> jax.Array:
        return Masked()(x, **kwargs)


class WithoutCall(nn.Module):
    def forward(self, x: jax.Array) -> jax.Array:
        return x


class WithoutInputs(nn.Module):
    def __call__(self) -> int:
        return 1


class Noisy(nn.Module):
    """Noise in training, under a name of its own."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = nn.Dense(3)(x)
        return x + self.make_rng("noise").shape[0] if train else x


class NoisyAlways(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(x))


LINEN = {
    "class": (Net, (5,), "module is the class Net: pass an instance"),
    "bound": (Net().bind({}), (5,), r"module Net is bound .* module\.unbind"),
    "function": (lambda x: x, (5,), r"must be a flax\.linen\.Module; .*from_functions"),
    "NNX": (nnx.List([]), (5,), r"must be a flax\.linen\.Module; models\.from_nnx"),
    "argument": (Masked(), (5,), "module Masked needs the argument 'mask' beside"),
    "inner argument": (HandedOn(), (5,), "module HandedOn takes any .*: 'mask'"),
    "no call": (WithoutCall(), (5,), "module WithoutCall has no __call__"),
    "no inputs": (WithoutInputs(), (5,), "takes 0 positional arguments"),
    "no parameters": (nn.Dropout(0.5), (5,), "module Dropout has no parameters"),
    "int shape": (Net(), 5, "input_shape is 5: .* without the batch axis"),
    "batch axis": (Net(), (None, 5), r"input_shape is \(None, 5\): .* batch axis"),
    "zero": (Net(), (0,), r"input_shape is \(0,\): "),
    "other shape": (Net(), (4,), r"examples of shape \(4,\) \(input_shape.*\(6, 5\)"),
    "stream": (Noisy(), (5,), "module Noisy .* name other than 'dropout'.*noise"),
    "evaluation": (NoisyAlways(), (5,), "evaluation must not draw any"),
}


@pytest.mark.parametrize("kind", LINEN)
def test_linen_modules_are_refused_by_name(kind: str) -> None:
    module, shape, message = LINEN[kind]
    with pytest.raises(InputError, match=message):
        use(models.from_linen(module, shape))


def test_an_input_dtype_that_is_none_is_refused() -> None:
    with pytest.raises(InputError, match="input_dtype is 'flot': it must be a dtype"):
        models.from_linen(Net(), (5,), input_dtype="flot")


def test_training_without_a_key_is_refused() -> None:
    class Dropping(nn.Module):
        @nn.compact
        def __call__(self, x: jax.Array, train: bool) -> jax.Array:
            return nn.Dropout(0.5, deterministic=not train)(nn.Dense(3)(x))

    model = models.from_linen(Dropping(), (5,))
    variables = model.init(jax.random.key(0))
    with pytest.raises(InputError, match=r"Dropping draws .*: training needs a key"):
        model.apply(variables, X, train=True)


ENDS = {
    "a tuple of 2": lambda x: (x, x),
    "a list of 1": lambda x: [x],
    "a dict of 'logits'": lambda x: {"logits": x},
    "None": lambda x: None,
    "a float": lambda x: 1.0,
    r"an array of shape \(\) for 6 examples": lambda x: x.mean(),
    r"an array of shape \(3, 6\) for 6 examples": lambda x: x.T,
}


@pytest.mark.parametrize("message", ENDS)
def test_outputs_are_one_array_with_a_row_for_every_example(message: str) -> None:
    end = ENDS[message]

    class NNXNet(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.layer = nnx.Linear(5, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> Any:
            return end(self.layer(x))

    kinds = {
        "module Net": models.from_linen(Net(end), (5,)),
        "module NNXNet": models.from_nnx(NNXNet),
        "apply_fn": models.from_functions(
            lambda key: jnp.ones((5, 3)), lambda params, x: end(x @ params)
        ),
    }
    for owner, model in kinds.items():
        with pytest.raises(InputError, match=rf"^{owner} returned {message}: .*\[B, "):
            use(model)


def product(params: Any, x: jax.Array) -> jax.Array:
    return x @ params


FUNCTIONS = {
    "no init": ({"w": 1.0}, product, "init_fn is .*: it must be a function"),
    "no apply": (lambda key: 1.0, None, "apply_fn is None: it must be a function"),
    "nothing": (lambda key: None, product, "init_fn returned None: .*one array"),
    "empty": (lambda key: {"a": {}}, product, "init_fn returned a dict of 'a'"),
    "text": (lambda key: {"a": ["b"]}, product, "returned 'b' at params/a/0"),
    "collections": (
        lambda key: {"params": X, "batch_stats": X},
        product,
        r"collections 'params', 'batch_stats': .*models\.Model",
    ),
    "state": (
        lambda key: jnp.ones((5, 3)),
        lambda params, x: (x @ params, {"mean": 1.0}),
        r"apply_fn returned a tuple of 2: .*models\.Model\(init, apply\)",
    ),
    "a third": (
        lambda key: X,
        lambda params, rng, x: x,
        "apply_fn needs the argument 'x' beside",
    ),
    "one": (lambda key: X, lambda params: params, "takes 1 positional argument: "),
    "a dict": (
        lambda key: jnp.ones((5, 3)),
        lambda params, batch: batch["x"] @ params,
        r"apply_fn looks something up by name .* where x is an array of shape \(6, 5\)",
    ),
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_plain_functions_are_refused_by_name(kind: str) -> None:
    init, apply, message = FUNCTIONS[kind]
    with pytest.raises(InputError, match=message):
        use(models.from_functions(init, apply))


def test_other_errors_of_plain_functions_are_their_own() -> None:
    def apply(params: Any, x: jax.Array) -> jax.Array:
        return x @ params["w"]

    model = models.from_functions(lambda key: {"v": X}, apply)
    with pytest.raises(KeyError, match="w"):
        use(model)


def test_numbers_among_parameters_become_arrays() -> None:
    model = models.from_functions(
        lambda key: {"scale": 2.0, "shift": np.ones(5, np.float32)},
        lambda params, x: x * params["scale"],
    )
    params = model.init(jax.random.key(0))["params"]
    assert isinstance(params["scale"], jax.Array)
    assert isinstance(params["shift"], jax.Array)
    assert params["scale"].dtype == jnp.float32


class NNXBase(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.layer = nnx.Linear(5, 3, rngs=rngs)
        self.more(rngs)

    def more(self, rngs: nnx.Rngs) -> None:
        pass

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.layer(x)


class NNXMasked(NNXBase):
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:  # type: ignore[override]
        return self.layer(x) * mask


class NNXTrained(NNXBase):
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        return self.layer(x)


class NNXRandom(NNXBase):
    """A random array that is no variable."""

    def more(self, rngs: nnx.Rngs) -> None:
        self.shift = rngs.normal((3,))


class NNXCounter(NNXBase):
    def more(self, rngs: nnx.Rngs) -> None:
        self.calls = jnp.zeros(())

    def __call__(self, x: jax.Array) -> jax.Array:
        self.calls = self.calls + 1
        return self.layer(x) + self.calls


class NNXListed(NNXBase):
    def more(self, rngs: nnx.Rngs) -> None:
        self.shifts = [jnp.zeros(3)]


class NNXWithoutCall(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.weight = nnx.Param(jnp.ones(3))


def sequential(rngs: nnx.Rngs) -> nnx.Module:
    return nnx.Sequential(nnx.Linear(5, 5, rngs=rngs), NNXTrained(rngs))


NNX = {
    "instance": (
        nnx.List([]),
        r"module_factory is a module, List: .*lambda rngs: List\(",
    ),
    "linen": (nn.Dense, r"must be a function of nnx\.Rngs .*models\.from_linen"),
    "number": (3, r"module_factory is 3: it must be a function of nnx\.Rngs"),
    "arguments": (nnx.Linear, "module_factory needs in_features, out_features: "),
    "nothing": (lambda rngs: None, "module_factory returned None: it must return"),
    "argument": (NNXMasked, "module NNXMasked needs the argument 'mask' beside"),
    "no call": (NNXWithoutCall, "module NNXWithoutCall has no __call__"),
    "random": (NNXRandom, r"attribute shift is a plain array that depends .*BatchStat"),
    "changed": (NNXCounter, r"changes the attribute calls, .*nnx\.BatchStat"),
    "listed": (NNXListed, r"static attribute 'shifts' .*nnx\.List"),
    "sequential": (sequential, "layer NNXTrained of an nnx.Sequential takes .*'train'"),
}


@pytest.mark.parametrize("kind", NNX)
def test_nnx_modules_are_refused_by_name(kind: str) -> None:
    factory, message = NNX[kind]
    with pytest.raises(InputError, match=message):
        use(models.from_nnx(factory))


def test_plain_arrays_of_an_nnx_module_are_constants() -> None:
    class Constants(NNXBase):
        def more(self, rngs: nnx.Rngs) -> None:
            self.shift = jnp.arange(3.0)
            self.scale = np.full(3, 2.0, np.float32)
            self.key = jax.random.key(3)
            self.steps = nnx.List([jnp.ones(3)])

        def __call__(self, x: jax.Array) -> jax.Array:
            with jax.numpy_rank_promotion("allow"):
                noise = jax.random.normal(jax.random.clone(self.key), (3,))
                shift = self.shift + self.steps[0] + noise
                return self.layer(x) * self.scale + shift

    model = models.from_nnx(Constants)
    variables = jax.jit(model.init)(jax.random.key(0))
    assert jax.tree.map(jnp.shape, variables) == {
        "params": {"layer": {"kernel": (5, 3), "bias": (3,)}}
    }
    key = jax.random.key(1)
    outputs, _ = jax.jit(lambda v: model.apply(v, X, train=True, key=key))(variables)
    module = Constants(nnx.Rngs(0))
    kernel = variables["params"]["layer"]["kernel"]
    module.layer.kernel[...] = kernel
    np.testing.assert_allclose(outputs, module(X), rtol=1e-5)


def test_a_class_may_take_its_streams_by_name() -> None:
    class Named(nnx.Module):
        def __init__(self, width: int = 3, *, rngs: nnx.Rngs) -> None:
            self.layer = nnx.Linear(5, width, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.layer(x)

    assert use(models.from_nnx(Named))[0].shape == (6, 3)
