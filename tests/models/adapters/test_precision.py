"""bfloat16 in the forward pass, and float32 in all that is kept."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedsparsify_jax import algorithms, models, trees
from fedsparsify_jax.types import ClientData

TINY = {
    "mlp": {"input_shape": (6,), "hidden": (5,)},
    "cnn": {"input_shape": (4, 4), "widths": (2, 3), "hidden": 4},
    "resnet18_gn": {"input_shape": (4, 4), "widths": (4,), "blocks": (1,)}
    | {"strides": (1,)},
    "lstm": {"input_shape": (5,), "vocabulary": 9, "embedding": 4, "units": (3,)},
    "transformer": {"input_shape": (5,), "vocabulary": 9, "width": 4, "layers": 1}
    | {"heads": 2, "hidden": 4},
}


def pair(name: str) -> list[models.Model]:
    return [
        models.build(name, num_classes=2, compute_dtype=dtype, **TINY[name])  # type: ignore[arg-type]
        for dtype in (None, jnp.bfloat16)
    ]


@pytest.mark.parametrize("name", TINY)
def test_products_are_in_bfloat16_and_what_comes_out_is_not(
    name: str, key: jax.Array
) -> None:
    full, low = pair(name)
    variables = jax.eval_shape(low.init, key)
    assert variables == jax.eval_shape(full.init, key)
    x = jax.ShapeDtypeStruct((3, *TINY[name]["input_shape"]), jnp.int32)  # type: ignore[misc]

    def step(variables: Any, x: Any) -> Any:
        def loss(params: Any) -> Any:
            now = variables | {"params": params}
            outputs, changed = low.apply(now, x, train=True, key=jax.random.key(0))
            return outputs.sum(), (outputs, changed)

        return jax.grad(loss, has_aux=True)(variables["params"])

    dtypes = {
        leaf.dtype for leaf in jax.tree.leaves(jax.eval_shape(step, variables, x))
    }
    assert dtypes == {jnp.dtype(jnp.float32)}
    traced = jax.make_jaxpr(low.apply)(variables, x)
    # Those of attention add up in float32.
    assert _operands(traced.jaxpr) == {jnp.dtype(jnp.bfloat16)}


def _operands(jaxpr: Any) -> set[Any]:
    """Dtypes of what is multiplied in the products of a jaxpr."""
    found = set()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            found |= {atom.aval.dtype for atom in equation.invars}
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda v: hasattr(v, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            found |= _operands(inner) if hasattr(inner, "eqns") else set()
    return found


def test_the_usual_precision_traces_the_same_program(key: jax.Array) -> None:
    """float32 adds no operation: results are the same bit for bit."""
    full, low = pair("cnn")
    x = jnp.zeros((3, 4, 4))
    variables = jax.eval_shape(full.init, key)
    assert "bf16" not in str(jax.make_jaxpr(full.apply)(variables, x))
    assert "bf16" in str(jax.make_jaxpr(low.apply)(variables, x))


def test_batch_statistics_are_averaged_in_float32(made_up: Any) -> None:
    """1,000 values near 100, whose mean bfloat16 knows to half a unit."""
    full, low = pair("cnn")
    variables = made_up(full.init)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(100, 1, (60, 4, 4)), jnp.float32)
    key = jax.random.key(0)
    (_, expected), (_, changed) = (
        model.apply(variables, x, train=True, key=jax.random.clone(key))
        for model in (full, low)
    )
    chex.assert_trees_all_close(changed, expected, rtol=0.02)


def test_nnx_modules_compute_in_bfloat16_too(key: jax.Array) -> None:
    class Net(nnx.Module):
        def __init__(self, rngs: nnx.Rngs):
            self.dense, self.norm = (
                nnx.Linear(3, 2, rngs=rngs),
                nnx.BatchNorm(2, rngs=rngs),
            )

        def __call__(self, x: jax.Array) -> jax.Array:
            return self.norm(self.dense(x))

    model = models.from_nnx(Net, compute_dtype=jnp.bfloat16)
    variables = jax.eval_shape(model.init, key)
    x = jnp.zeros((4, 3))
    outputs, changed = jax.eval_shape(
        lambda v, x: model.apply(v, x, train=True, key=None), variables, x
    )
    dtypes = {leaf.dtype for leaf in jax.tree.leaves((outputs, changed))}
    assert dtypes == {jnp.dtype(jnp.float32)}
    assert "bf16" in str(jax.make_jaxpr(model.apply)(variables, x))


def test_rounds_keep_exact_masks_and_float32_parameters() -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 8, 6)), jnp.float32)
    clients = ClientData(
        x, (x.sum(axis=-1) > 0).astype(jnp.int32), jnp.array([8, 7], jnp.int32)
    )
    results = []
    for model in pair("mlp"):
        algorithm = algorithms.fedsparsify_global(
            model.apply,
            final_sparsity=0.5,
            rounds=3,
            local_epochs=2,
            batch_size=4,
            learning_rate=0.05,
        )
        state = algorithm.init(jax.random.key(0), model.init(jax.random.key(1)))
        step = jax.jit(algorithm.step)
        for number in range(3):
            state, info = step(jax.random.key(number), state, clients)
        results.append((state, info))
    (full, full_info), (low, low_info) = results
    kept = [trees.nonzeros([s.masks["params"]]) for s in (full, low)]
    assert kept[0] == kept[1]  # the schedule's number, to the entry
    for weight, mask in zip(*map(jax.tree.leaves, low[:2]), strict=True):
        assert weight.dtype == jnp.float32 and mask.dtype == bool
        assert np.all(np.asarray(weight)[~np.asarray(mask)] == 0)
    assert full_info.loss != low_info.loss  # it is another computation
    np.testing.assert_allclose(low_info.loss, full_info.loss, rtol=0.03)
    chex.assert_trees_all_close(low.variables, full.variables, atol=0.05)
