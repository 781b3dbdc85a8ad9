"""Patches times a matrix against XLA's own convolution."""

from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from fedsparsify_jax.models.networks.layers import max_pool
from fedsparsify_jax.models.ops.convolution import implementation, patches, winograd

CASES = {
    "2d same": ((7, 6), (3, 3), (1, 1), "SAME", (1, 1)),
    "2d valid": ((7, 6), (3, 2), (1, 1), "VALID", (1, 1)),
    "2d even kernel": ((5, 8), (2, 4), (1, 1), "SAME", (1, 1)),
    "2d strided same, odd": ((7, 5), (3, 3), (2, 2), "SAME", (1, 1)),
    "2d strided same, even": ((8, 6), (3, 3), (2, 2), "SAME", (1, 1)),
    "2d strided valid": ((8, 7), (3, 3), (2, 3), "VALID", (1, 1)),
    "2d one by one": ((4, 5), (1, 1), (1, 1), "SAME", (1, 1)),
    "2d one by one, strided": ((5, 4), (1, 1), (2, 2), "SAME", (1, 1)),
    "2d explicit padding": ((5, 4), (3, 3), (1, 2), [(2, 0), (1, 3)], (1, 1)),
    "2d dilated kernel": ((9, 8), (3, 3), (1, 1), "SAME", (2, 3)),
    "3d same": ((5, 4, 6), (3, 3, 3), (1, 1, 1), "SAME", (1, 1, 1)),
    "3d valid": ((4, 5, 3), (2, 3, 1), (1, 1, 1), "VALID", (1, 1, 1)),
    "3d strided": ((5, 6, 7), (3, 3, 3), (2, 2, 2), "SAME", (1, 1, 1)),
    "3d one by one": ((2, 3, 2), (1, 1, 1), (1, 1, 1), "SAME", (1, 1, 1)),
}


def numbers(space: int) -> tuple[str, str, str]:
    axes = "DHW"[-space:]
    return (f"N{axes}C", f"{axes}IO", f"N{axes}C")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_agrees_with_xla_in_value_and_gradients(case: Any) -> None:
    space, window, strides, padding, gaps = case
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *space, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(*window, 3, 4)), jnp.float32)

    def loss(conv: Any, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Any]:
        y = conv(
            x,
            kernel,
            strides,
            padding,
            rhs_dilation=gaps,
            dimension_numbers=numbers(len(space)),
        )
        return jnp.sum(jnp.sin(y)), y

    def results(conv: Any) -> Any:
        run = jax.value_and_grad(loss, argnums=(1, 2), has_aux=True)
        return jax.jit(run, static_argnums=0)(conv, x, kernel)

    ours, theirs = results(patches), results(jax.lax.conv_general_dilated)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [(3, 3), (3, 3, 3)])
def test_drops_into_flax_conv(key: jax.Array, window: tuple[int, ...]) -> None:
    x = jax.random.normal(jax.random.key(1), (2, *[5] * len(window), 2))
    outputs = []
    for conv in ("patches", "xla"):
        layer = nn.Conv(3, window, strides=2, conv_general_dilated=implementation(conv))
        outputs.append(layer.init_with_output(jax.random.clone(key), x)[0])
    np.testing.assert_allclose(*outputs, rtol=1e-4, atol=1e-5)


def primitives(jaxpr: Any) -> Iterator[str]:
    for equation in jaxpr.eqns:
        yield equation.primitive.name
        for inner in jaxprs_in_params(equation.params):
            yield from primitives(inner)


def test_neither_direction_uses_what_is_slow_on_the_cpu() -> None:
    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return jnp.sum(max_pool(patches(x, kernel, (1, 1), "SAME")) ** 2)

    x, kernel = jnp.ones((3, 2, 6, 6, 2)), jnp.ones((3, 3, 3, 2, 4))
    clients = jax.vmap(jax.grad(loss, argnums=(0, 1)))
    used = set(primitives(jax.make_jaxpr(clients)(x, kernel).jaxpr))
    assert {"dot_general", "concatenate", "slice"} <= used
    slow = ("conv_general_dilated", "scatter", "gather", "reduce_window", "sort")
    assert not [name for name in used if any(word in name for word in slow)]


@pytest.mark.parametrize("platform", ["cpu", "cuda", "rocm", "tpu"])
def test_auto_chooses_for_the_platform_compiled_for(platform: str) -> None:
    def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
        y = implementation("auto")(x, kernel, [1, 1], [(1, 1), (1, 1)])
        return jnp.sum(jnp.sin(y))

    x, kernel = jnp.ones((3, 2, 8, 8, 16)), jnp.ones((3, 3, 3, 16, 16))
    clients = jax.jit(jax.vmap(jax.grad(loss, argnums=(0, 1))))
    text = clients.trace(x, kernel).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.convolution" in text) == (platform != "cpu")
    assert ("stablehlo.dot_general" in text) == (platform == "cpu")


def test_auto_on_a_cpu_is_winograd_to_the_bit() -> None:
    keys = jax.random.split(jax.random.key(0))
    x = jax.random.normal(keys[0], (2, 8, 8, 16))
    kernel = jax.random.normal(keys[1], (3, 3, 16, 16))
    for compiled in (False, True):
        results = []
        for conv in (implementation("auto"), winograd):
            run = jax.jit(conv, static_argnums=(2, 3)) if compiled else conv
            results.append(run(x, kernel, (1, 1), "SAME"))
        np.testing.assert_array_equal(*results)


def test_names() -> None:
    assert implementation("xla") is jax.lax.conv_general_dilated
    assert implementation("patches") is patches
    assert implementation("winograd") is winograd
    with pytest.raises(ValueError, match="unknown conv 'fft'"):
        implementation("fft")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"feature_group_count": 2}, "feature_group_count is 2"),
        ({"lhs_dilation": (2, 1)}, r"lhs_dilation is \(2, 1\)"),
        ({"dimension_numbers": ("NCHW", "HWIO", "NHWC")}, "channels must come last"),
        ({"rhs": jnp.ones((3, 3, 5, 4))}, "does not fit inputs"),
        ({"rhs": jnp.ones((9, 9, 3, 4)), "padding": "VALID"}, "does not fit into"),
    ],
)
def test_refuses_what_it_cannot_do(changed: dict[str, Any], message: str) -> None:
    arguments = {
        "lhs": jnp.ones((1, 3, 3, 3)),
        "rhs": jnp.ones((3, 3, 3, 4)),
        "window_strides": (1, 1),
        "padding": "SAME",
    }
    with pytest.raises(ValueError, match=message):
        patches(**(arguments | changed))
