"""Linear evaluation: a classifier of the features that a network has learnt.

The features stay as they are. With those of n examples standardised, H ``[n, d]``,

    W, b = argmin  mean_i cross_entropy(W^T h_i + b, y_i) + decay / 2 |W|^2

by gradients g of all examples at once, each solved for by a bound of the curvature,

    W <- V - (H^T H / (2 n) + decay)^-1 g(V, a),    b <- a - 2 g(V, a),

which is Newton's method with a matrix that does not change: Böhning, *Multinomial
logistic regression algorithm*, 1992. (V, a) lead (W, b) by Nesterov's momentum,
``(k - 1) / (k + 2)`` in step k. The standardisation is folded into the answer, a dense
layer on plain features.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


class Linear(NamedTuple):
    """A dense layer."""

    kernel: jax.Array  # [d, C]
    bias: jax.Array  # [C]


def fitted(
    features: jax.Array,
    y: jax.Array,
    classes: int,
    *,
    decay: ArrayLike = 1e-4,
    steps: int = 50,
) -> Linear:
    """Fits the classifier, jittable.

    Args:
      features: of all examples, ``[n, d]``. One that never varies gets no weight.
      y: classes ``[n]``, from 0 to C - 1.
      classes: C.
      decay: of the weights of standardised features, above 0; not of the biases.
      steps: each a pass over all examples.

    Example:
      >>> h = jnp.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]])
      >>> kernel, bias = fitted(h, jnp.array([0, 0, 1, 1]), 2)
      >>> jnp.argmax(h @ kernel + bias[None], axis=-1).tolist(), kernel[1].tolist()
      ([0, 0, 1, 1], [0.0, 0.0])
    """
    features = features.astype(jnp.float32)
    mean, spread = jnp.mean(features, axis=0), jnp.std(features, axis=0)
    constant = 1e-6 * jnp.maximum(jnp.abs(mean), 1e-6)
    # Rounding alone makes a spread where there is none.
    varies = spread > constant
    scale = jnp.where(varies, 1 / jnp.where(varies, spread, 1.0), 0.0)
    standard = (features - mean[None]) * scale[None]

    truth = jax.nn.one_hot(y, classes)

    def gradient(layer: Linear) -> Linear:
        shares = jax.nn.softmax(standard @ layer.kernel + layer.bias[None])
        errors = (shares - truth) / len(standard)
        kernel = standard.T @ errors + decay * layer.kernel
        return Linear(kernel, jnp.sum(errors, axis=0))

    width = standard.shape[-1]
    bound = standard.T @ standard / (2 * len(standard)) + decay * jnp.eye(width)
    factor = jax.scipy.linalg.cho_factor(bound)

    def step(number: int, carry: tuple[Linear, Linear]) -> tuple[Linear, Linear]:
        layer, ahead = carry
        slope = gradient(ahead)
        new = Linear(
            ahead.kernel - jax.scipy.linalg.cho_solve(factor, slope.kernel),
            ahead.bias - 2 * slope.bias,
        )
        lead = number / (number + 3.0)
        return new, jax.tree.map(lambda now, old: now + lead * (now - old), new, layer)

    start = Linear(jnp.zeros((width, classes)), jnp.zeros(classes))
    layer, _ = jax.lax.fori_loop(0, steps, step, (start, start))
    kernel = layer.kernel * scale[:, None]
    return Linear(kernel, layer.bias - mean @ kernel)
