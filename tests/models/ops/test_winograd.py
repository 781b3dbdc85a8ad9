"""Winograd's convolutions against XLA's: values, gradients, and what is left alone."""

import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params

from fedsparsify_jax.models.ops import winograd as minimal
from fedsparsify_jax.models.ops.convolution import patches, winograd

XLA = functools.partial(
    jax.lax.conv_general_dilated, dimension_numbers=("NHWC", "HWIO", "NHWC")
)
CASES = {
    "even tiles": ((8, 8), "SAME", 4),
    "tiles that stick out": ((7, 9), "SAME", 4),
    "small tiles, odd": ((5, 7), "SAME", 2),
    "an image of two": ((2, 2), "SAME", 2),
    "valid": ((6, 9), "VALID", 4),
    "one-sided padding": ((5, 4), [(2, 0), (1, 3)], 4),
    "more padding than window": ((4, 3), [(3, 0), (0, 4)], 2),
}


def arrays(*space: int, ins: int = 16, outs: int = 17) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *space, ins)), jnp.float32)
    return x, jnp.asarray(rng.normal(size=(3, 3, ins, outs)), jnp.float32)


def results(conv: Any, x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    """Output, and gradients under a fixed pull on it."""
    y, pull = jax.vjp(conv, x, kernel)
    return [y, *pull(jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape))]


def assert_close(ours: Any, theirs: Any) -> None:
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        limit = 1e-5 * float(jnp.abs(b).max())
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=limit)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if transforming a kernel took no time: tiny arrays will do."""
    monkeypatch.setattr(minimal, "KERNEL", 0)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_agrees_with_xla_in_value_and_gradients(
    case: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    space, padding, m = case
    only = {m: minimal.TRANSFORMS[m]}
    monkeypatch.setattr(minimal, "TRANSFORMS", only)
    x, kernel = arrays(*space)
    steps = used(lambda *a: winograd(*a, (1, 1), padding), x, kernel)
    assert "winograd_3x3" in [one.params.get("name") for one in steps]
    ours = jax.jit(lambda *a: results(lambda *b: winograd(*b, (1, 1), padding), *a))
    theirs = jax.jit(lambda *a: results(lambda *b: XLA(*b, (1, 1), padding), *a))
    assert_close(ours(x, kernel), theirs(x, kernel))


@pytest.mark.usefixtures("always")
def test_clients_have_their_own_kernels_inside_a_scan() -> None:
    x, kernel = arrays(4, 6)
    kernels = jnp.stack([kernel, 2 * kernel[::-1]])

    def train(conv: Any, kernel: jax.Array) -> jax.Array:
        def step(kernel: jax.Array, _: None) -> tuple[jax.Array, None]:
            slope = jax.grad(lambda k: jnp.mean(conv(x, k, (1, 1), "SAME") ** 2))
            return kernel - 0.01 * slope(kernel), None

        return jax.lax.scan(step, kernel, None, length=2)[0]

    clients = jax.jit(jax.vmap(functools.partial(train, winograd)))(kernels)
    alone = [train(XLA, kernel) for kernel in kernels]
    assert_close(clients, jnp.stack(alone))


@pytest.mark.usefixtures("always")
def test_second_derivatives_forward_over_reverse() -> None:
    """What GraSP takes."""
    x, kernel = arrays(4, 4)

    def product(conv: Any) -> Any:
        def slope(kernel: jax.Array) -> jax.Array:
            return jax.grad(lambda k: jnp.mean(conv(x, k, (1, 1), "SAME") ** 3))(kernel)

        return jax.jit(lambda k: jax.linearize(slope, k)[1](jnp.sin(k)))(kernel)

    assert_close(product(winograd), product(XLA))


def equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        yield equation
        for inner in jaxprs_in_params(equation.params):
            yield from equations(inner)


def used(conv: Any, x: jax.Array, kernel: jax.Array, *how: Any) -> list[Any]:
    run = jax.make_jaxpr(lambda x, kernel: conv(x, kernel, *how))(x, kernel)
    return list(equations(run.jaxpr))


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("x", "kernel", "how"),
    [
        ((1, 8, 8, 3), (3, 3, 3, 16), ((1, 1), "SAME")),
        ((1, 8, 8, 16), (3, 3, 16, 10), ((1, 1), "SAME")),
        ((1, 8, 8, 16), (5, 5, 16, 16), ((1, 1), "SAME")),
        ((1, 8, 8, 16), (3, 3, 16, 16), ((2, 2), "SAME")),
        ((1, 8, 8, 16), (3, 3, 16, 16), ((1, 1), "SAME", None, (2, 2))),
        ((2, 1, 1, 16), (3, 3, 16, 16), ((1, 1), "SAME")),
        ((1, 4, 4, 4, 16), (3, 3, 3, 16, 16), ((1, 1, 1), "SAME")),
    ],
)
def test_all_others_are_patches(x: Any, kernel: Any, how: Any) -> None:
    arguments = jnp.ones(x), jnp.ones(kernel)
    names = [one.params.get("name") for one in used(winograd, *arguments, *how)]
    assert "winograd_3x3" not in names
    np.testing.assert_array_equal(winograd(*arguments, *how), patches(*arguments, *how))


@pytest.mark.usefixtures("always")
def test_half_precision_is_left_to_patches() -> None:
    x, kernel = (a.astype(jnp.bfloat16) for a in arrays(4, 4))
    names = [
        one.params.get("name") for one in used(winograd, x, kernel, (1, 1), "SAME")
    ]
    assert "winograd_3x3" not in names


@pytest.mark.usefixtures("always")
def test_fewer_products_and_nothing_that_is_slow_on_the_cpu() -> None:
    x, kernel = arrays(16, 16)
    pull = functools.partial(results, lambda *a: winograd(*a, (1, 1), "SAME"))
    steps = list(equations(jax.make_jaxpr(pull)(x, kernel).jaxpr))
    names = {one.primitive.name for one in steps}
    slow = ("conv_general_dilated", "scatter", "gather", "reduce_window", "sort")
    assert not [name for name in names if any(word in name for word in slow)]
    shapes = [
        tuple(atom.aval.shape for atom in one.invars)
        for one in steps
        if one.primitive.name == "dot_general"
    ]
    tiles = 2 * 4 * 4
    assert ((36, tiles, 16), (36, 16, 17)) in shapes


def test_few_outputs_are_not_worth_transforming_a_kernel() -> None:
    same = ((1, 1), (1, 1))
    for batch, size, m in ((32, 32, 4), (32, 8, 4), (4, 8, 2), (2, 4, None)):
        how = minimal.plan((batch, size, size, 64), same)
        assert (how and how.m) == m


def test_the_plan_for_the_gradient_undoes_the_padding() -> None:
    how = minimal.plan((40, 5, 6, 16), ((2, 1), (0, 1)))
    assert how is not None
    assert how.outputs == (6, 5) and how.reverse.outputs == (5, 6)
    assert how.reverse.padding == ((0, 1), (2, 1))
    assert how.reverse.reverse == how
