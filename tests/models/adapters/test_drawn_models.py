"""Any model of a user's gives right results, or is refused by the name of the fault."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedsparsify_jax import models
from fedsparsify_jax.errors import InputError

WIDTH = 32  # of which a dropout of .99 never keeps all
POSITIVE = ("train", "training", "is_training")
FLAGS = (*POSITIVE, "deterministic", "use_running_average")
FAULTS = {
    "mask": "needs the argument 'mask' beside",
    "empty": r"has no parameters|no nnx\.Param|init_fn returned",
    "tuple": "returned a tuple of 2",
    "dict": "returned a dict of 'a'",
    "none": "returned None",
    "rows": r"returned an array of shape \(32, 6\) for 6 examples",
}
ENDS: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda x: (x, x),
    "dict": lambda x: {"a": x},
    "none": lambda x: None,
    "rows": lambda x: x.T,
}


class Drawn(NamedTuple):
    """A model to be written down as a class or a function."""

    kind: str  # linen, nnx, functions
    layer: str  # plain, dropout, norm
    flag: str  # its name, one of FLAGS
    place: str  # keyword, position, default, any, attribute
    dtype: Any  # of the parameters
    tree: Any  # structure of the functions' parameters; leaves are zeros
    raw: Any  # dtype of x
    fault: str | None  # one of FAULTS


def trees() -> st.SearchStrategy[Any]:
    return st.recursive(
        st.just(0),
        lambda inner: (
            st.lists(inner, min_size=1, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.sampled_from("ab"), inner, min_size=1)
        ),
        max_leaves=4,
    )


def drawn_models(kind: str, layer: str) -> st.SearchStrategy[Drawn]:
    return st.builds(
        Drawn,
        kind=st.just(kind),
        layer=st.just(layer),
        flag=st.sampled_from(FLAGS),
        place=st.sampled_from(["keyword", "position", "default", "any", "attribute"]),
        dtype=st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]),
        tree=trees(),
        raw=st.sampled_from([np.float32, np.uint8, np.int32]),
        fault=st.none() | st.sampled_from(sorted(FAULTS)),
    )


def signature(drawn: Drawn) -> str:
    """The arguments after the inputs."""
    more = "mask, " if drawn.fault == "mask" else ""
    return {
        "keyword": f", *, {more}{drawn.flag}",
        "position": f", {more}{drawn.flag}",
        "default": f", *, {more}{drawn.flag}={drawn.flag not in POSITIVE}",
        "any": f", {more}**kwargs",
        "attribute": f", {more}"[:-2],
    }[drawn.place]


def trains(drawn: Drawn) -> str:
    """The expression that is True in training."""
    value = {"any": "inner(**kwargs)", "attribute": f"self.{drawn.flag}"}.get(
        drawn.place, drawn.flag
    )
    return f"{value} == {drawn.flag in POSITIVE}"


def defined(drawn: Drawn, text: str, /, **names: Any) -> Any:
    """The object ``net`` of a text, in which ``inner`` is strict about its argument."""
    names |= {"nn": nn, "nnx": nnx, "end": ENDS.get(drawn.fault or "", lambda x: x)}
    exec(f"def inner(*, {drawn.flag}): return {drawn.flag}", names)
    exec(text, names)
    return names["net"]


def linen(drawn: Drawn) -> models.Model:
    def body(x: jax.Array, train: bool) -> jax.Array:
        if drawn.fault == "empty":
            return x
        x = nn.Dense(WIDTH, param_dtype=drawn.dtype)(x)
        if drawn.layer == "dropout":
            return nn.Dropout(0.99, deterministic=not train)(x)
        if drawn.layer == "norm":
            return nn.BatchNorm(use_running_average=not train)(x)
        return x

    field = f"{drawn.flag}: bool = True" if drawn.place == "attribute" else "pass"
    net = defined(
        drawn,
        f"class net(nn.Module):\n    {field}\n    @nn.compact\n"
        f"    def __call__(self, x{signature(drawn)}):\n"
        f"        return end(body(x, {trains(drawn)}))",
        body=body,
    )
    return models.from_linen(net(), (5,))


class Layers(nnx.Module):
    """The layers of the NNX models, and a constant."""

    def __init__(self, rngs: nnx.Rngs, drawn: Drawn) -> None:
        self.one = jnp.ones(())
        if drawn.fault == "empty":
            return
        self.dense = nnx.Linear(5, WIDTH, param_dtype=drawn.dtype, rngs=rngs)
        if drawn.layer == "dropout":
            self.last = nnx.Dropout(0.99, rngs=rngs)
        elif drawn.layer == "norm":
            self.last = nnx.BatchNorm(WIDTH, rngs=rngs)

    def body(self, x: jax.Array, train: bool) -> jax.Array:
        x = self.dense(x) * self.one
        if isinstance(getattr(self, "last", None), nnx.Dropout):
            return self.last(x, deterministic=not train)
        return (
            self.last(x, use_running_average=not train) if "last" in vars(self) else x
        )


def nnx_model(drawn: Drawn) -> models.Model:
    field = f"self.{drawn.flag} = True" if drawn.place == "attribute" else "pass"
    net = defined(
        drawn,
        f"class net(Layers):\n    def __init__(self, rngs):\n"
        f"        super().__init__(rngs, drawn)\n        {field}\n"
        f"    def __call__(self, x{signature(drawn)}):\n"
        f"        return end(self.body(x, {trains(drawn)}))",
        Layers=Layers,
        drawn=drawn,
    )
    return models.from_nnx(net)


def functions(drawn: Drawn) -> models.Model:
    def init(key: jax.Array) -> Any:
        if drawn.fault == "empty":
            return []
        weight = jax.random.normal(key, (5, WIDTH), drawn.dtype)
        return jax.tree.map(lambda _: weight, drawn.tree)

    def body(params: Any, x: jax.Array, train: bool, key: Any) -> jax.Array:
        x = sum(x.astype(w.dtype) @ w for w in jax.tree.leaves(params))
        kept = train and drawn.layer == "dropout"
        return x * jax.random.bernoulli(key, 0.01, x.shape) if kept else x

    # The key is an argument of its own; so is the flag, if it would be an attribute.
    place = "keyword" if drawn.place == "attribute" else drawn.place
    drawn = drawn._replace(place=place)
    arguments = signature(drawn).replace("**", "key=None, **")
    if place != "any":
        arguments += ", key=None"
    net = defined(
        drawn,
        f"def net(params, x{arguments}):\n"
        f"    return end(body(params, x, {trains(drawn)}, key))",
        body=body,
    )
    return models.from_functions(init, net)


BUILD = {"linen": linen, "nnx": nnx_model, "functions": functions}


def check(drawn: Drawn) -> None:
    """Builds, initialises, evaluates and trains a model, and looks at the results."""
    model = BUILD[drawn.kind](drawn)
    variables = model.init(jax.random.key(0))
    x = np.random.default_rng(0).integers(1, 9, (6, 5)).astype(drawn.raw)
    outputs, nothing = model.apply(variables, x)
    assert outputs.shape == (6, WIDTH)
    assert nothing == {}
    np.testing.assert_array_equal(outputs, model.apply(variables, x)[0])

    valid = jnp.arange(6) < 4
    trained, changed = model.apply(
        variables, x, train=True, key=jax.random.key(1), valid=valid
    )
    again, _ = model.apply(variables, x, train=True, key=jax.random.key(1), valid=valid)
    np.testing.assert_array_equal(trained, again)
    # Plain functions have no statistics.
    without = drawn.kind == "functions" and drawn.layer == "norm"
    layer = "plain" if without else drawn.layer
    assert bool(np.any(trained != outputs)) == (layer != "plain")
    assert set(changed) == ({"batch_stats"} if layer == "norm" else set())
    before = {name: variables[name] for name in changed}
    assert jax.tree.map(jnp.shape, changed) == jax.tree.map(jnp.shape, before)
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), changed, before)
    assert all(jax.tree.leaves(moved))


# The records are short: nothing has to be made smaller.
@hypothesis.settings(max_examples=8, phases=[hypothesis.Phase.generate])
@hypothesis.given(data=st.data())
@pytest.mark.parametrize("layer", ["plain", "dropout", "norm"])
@pytest.mark.parametrize("kind", BUILD)
def test_a_drawn_model_is_right_or_refused_by_the_name_of_its_fault(
    kind: str, layer: str, data: st.DataObject
) -> None:
    drawn = data.draw(drawn_models(kind, layer))
    if drawn.fault is None:
        check(drawn)
        return
    with pytest.raises(InputError, match=FAULTS[drawn.fault]) as refusal:
        check(drawn)
    assert "\n" not in str(refusal.value)
