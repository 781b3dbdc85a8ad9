"""Gradients taken beside the weights: extrapolated SGD and SAM, for any method.

Lin, Kong, Stich and Jaggi, *Extrapolation for Large-batch Training in Deep Learning*,
ICML 2020, arXiv 2006.05720; Foret, Kleiner, Mobahi and Neyshabur, *Sharpness-Aware
Minimization for Efficiently Improving Generalization*, ICLR 2021, arXiv 2010.01412.

In every step a client with weights w, masks m, a batch xi and the radius r takes

    past    g = grad F(w - r m * g_last; xi)         Extrap-SGD; g_last its last g
    fresh   g = grad F(w - r m * grad F(w; xi); xi)  the extragradient, two gradients
    noise   g = grad F(w - r m * z; xi)              z of a normal distribution
    sam     g = grad F(w + r d / |d|; xi)            d = m * grad F(w; xi), likewise

and its optimizer steps from w along g, as without this. m is applied as the method
applies its masks to weights (`Method.project`): a pruned weight is zero at every point.

Deviations: the authors' K workers share one w, which an average of their gradients
moves in every step; clients go their own ways for a round. ``past`` starts every round
with g_last = 0. Extrapolation and SAM are from memory, for neither text was at hand;
so are the radius of SAM, 0.05, and that the look-ahead is along the descent. The radius
of ``noise``, 0.01, is this library's choice.

Loss and batch statistics of ``fresh`` and ``sam`` are those at w, from the first
gradient; those of ``past`` and ``noise`` are of the only point there is. Under
Powerpropagation all of it happens to theta.

Checked against: NumPy, in tests/engine/test_gradient_point.py.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from fedsparsify_jax.engine.options import Options
from fedsparsify_jax.method import Context, GradFn, GradientTransform, Method
from fedsparsify_jax.types import Key, PyTree, Variables

_NOISE = 0x6E6F  # "no": sets these draws apart from dropout's, of the same key

# a gradient function's variables, moved by a multiple of a direction
_Move = Callable[[Variables, PyTree, ArrayLike, Context], Variables]


def radius_of(o: Options) -> ArrayLike:
    """Returns the radius: the given one, or the usual one of the kind of point.

    >>> radius_of(Options(gradient_point="sam")), radius_of(Options())
    (0.05, 0.02)
    """
    if o.gradient_radius is not None:
        return o.gradient_radius
    return {"sam": 0.05, "noise": 0.01}.get(o.gradient_point, o.learning_rate)


def at_point(o: Options, method: Method) -> Method:
    """Returns the method whose gradients are taken where the options say.

    Args:
      o: the options; with the point ``"none"``, or a radius of 0 that is not traced,
        the method is returned as it is.
      method: what clients train; its ``project`` has their masks.

    Raises:
      ValueError: for a method that has its own way of taking gradients.
    """
    radius = radius_of(o)
    plain = isinstance(radius, int | float) and radius == 0
    if o.gradient_point == "none" or plain:
        return method
    if method.gradient is not Method(method.aggregate).gradient:
        raise ValueError(
            f"gradient_point {o.gradient_point} does not go with a method that takes "
            "gradients in its own way"
        )

    def move(
        variables: Variables, direction: PyTree, length: ArrayLike, context: Context
    ) -> Variables:
        kept = _kept(method, variables, direction, context)
        length = jnp.asarray(length, jnp.float32)
        params = jax.tree.map(
            lambda w, d: w + (length * d).astype(w.dtype), variables["params"], kept
        )
        return variables | {"params": params}

    def ascent(variables: Variables, direction: PyTree, context: Context) -> jax.Array:
        kept = _kept(method, variables, direction, context)
        norm: jax.Array = optax.tree.norm(kept)
        return jnp.asarray(radius, jnp.float32) / jnp.where(norm > 0, norm, 1)

    back = jnp.negative(radius)
    kinds = {
        "past": lambda: _along_the_last(move, back),
        "noise": lambda: _in_noise(move, back),
        "fresh": lambda: _twice(move, lambda *_: back),
        "sam": lambda: _twice(move, ascent),
    }
    return method._replace(gradient=kinds[o.gradient_point]())


def _kept(
    method: Method, variables: Variables, direction: PyTree, context: Context
) -> PyTree:
    """Returns the direction without what the client's masks prune."""
    moved = variables | {"params": direction}
    return method.project(context.step.masks, moved)["params"]


def _along_the_last(move: _Move, length: ArrayLike) -> GradientTransform:
    """Builds a look-ahead along the gradient of the client's last step."""

    def zeros(variables: Variables) -> PyTree:
        return jax.tree.map(jnp.zeros_like, variables["params"])

    def update(
        grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
    ) -> tuple[Any, Variables, PyTree]:
        value, gradients = grad_fn(move(variables, memory, length, context))
        return value, gradients, gradients["params"]

    return GradientTransform(zeros, update)


def _in_noise(move: _Move, length: ArrayLike) -> GradientTransform:
    """Builds a step to a random point nearby."""

    def update(
        grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
    ) -> tuple[Any, Variables, PyTree]:
        noise = _normal(context.step.key, variables["params"])
        value, gradients = grad_fn(move(variables, noise, length, context))
        return value, gradients, memory

    return GradientTransform(lambda variables: (), update)


def _normal(key: Key, params: PyTree) -> PyTree:
    """Draws from a normal distribution, one number for each of a tree."""
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.fold_in(key, _NOISE), len(leaves))
    drawn = [
        jax.random.normal(keys[n], leaf.shape, leaf.dtype)
        for n, leaf in enumerate(leaves)
    ]
    return jax.tree.unflatten(structure, drawn)


def _twice(
    move: _Move, length: Callable[[Variables, PyTree, Context], ArrayLike]
) -> GradientTransform:
    """Builds a step along the gradient at the weights, to take another one there."""

    def update(
        grad_fn: GradFn, variables: Variables, memory: PyTree, context: Context
    ) -> tuple[Any, Variables, PyTree]:
        value, first = grad_fn(variables)
        direction = first["params"]
        point = move(
            variables, direction, length(variables, direction, context), context
        )
        return value, grad_fn(point)[1], memory

    return GradientTransform(lambda variables: (), update)
