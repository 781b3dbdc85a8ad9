"""Measures of where clients go and what they agree on, as pure functions of models."""

from collections.abc import Callable
from itertools import combinations

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.types import Masks, PyTree, Variables

Loss = Callable[[Variables], jax.Array]
"""A model to its mean loss over some examples: a float32 scalar."""
POINTS = (0.25, 0.5, 0.75)
"""Where the loss is taken on the way from one model to another."""


def jaccard(stacked: Masks) -> jax.Array:
    """Returns the mean Jaccard index of all pairs.

    Args:
      stacked: bool masks ``[K, ...]``, K at least 2.

    Returns:
      A float32 scalar; pairs that keep nothing agree.

    Example:
      >>> round(float(jaccard({"w": jnp.array([[True, True], [True, False]])})), 3)
      0.5
    """
    leaves = [leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(stacked)]
    flat = jnp.concatenate(leaves, axis=1).astype(jnp.float32)
    both = flat @ flat.T  # exact below 2^24
    sizes = jnp.diagonal(both)
    either = sizes[:, None] + sizes[None, :] - both
    index = jnp.where(either > 0, both / jnp.maximum(either, 1.0), 1.0)
    clients = len(index)
    return (jnp.sum(index) - clients) / (clients * (clients - 1))


def dot(a: PyTree, b: PyTree) -> jax.Array:
    """Returns the sum of products of two trees' numbers, a float32 scalar.

    >>> float(dot({"w": jnp.array([1.0, 2.0])}, {"w": jnp.array([3.0, 4.0])}))
    11.0
    """
    products = jax.tree.map(lambda x, y: jnp.sum(x * y, dtype=jnp.float32), a, b)
    return sum(jax.tree.leaves(products), start=jnp.float32(0.0))


def cosine(a: PyTree, b: PyTree) -> jax.Array:
    """Returns the cosine of the angle between two trees; 0 if one of them is all zero.

    >>> float(cosine({"w": jnp.array([3.0, 0.0])}, {"w": jnp.array([-1.0, 0.0])}))
    -1.0
    """
    length = jnp.sqrt(dot(a, a) * dot(b, b))
    return jnp.where(length > 0, dot(a, b) / jnp.where(length > 0, length, 1.0), 0.0)


def shared_direction(moves: PyTree) -> jax.Array:
    """Returns how much of the clients' moves survives their mean.

    That is ``|mean_k d_k|^2 / mean_k |d_k|^2``: 1 if all clients move alike, 1/K if
    their moves are orthogonal, less if they pull against each other. Its inverse is
    the gradient diversity of Yin et al. (arXiv 1706.05699) up to the factor K.

    Args:
      moves: ``[K, ...]``.

    Example:
      >>> float(shared_direction({"w": jnp.array([[1.0, 0.0], [0.0, 1.0]])}))
      0.5
    """
    clients = trees.leading_size(moves)
    mean = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), moves)
    squares = dot(moves, moves) / clients
    return jnp.where(squares > 0, dot(mean, mean) / jnp.maximum(squares, 1e-30), 1.0)


def gradient_flow(
    loss: Loss, variables: Variables, kept: Masks
) -> tuple[jax.Array, jax.Array]:
    """Returns the squared norms of the gradient of kept and of pruned parameters.

    The first is the rate at which gradient descent can reduce the loss under the masks
    (Evci et al., "Gradient Flow in Sparse Neural Networks", arXiv 2010.03533).

    Args:
      loss: of a model.
      variables: the model.
      kept: masks of the same structure.

    Example:
      >>> model = {"params": {"w": jnp.array([3.0, 0.0])}}
      >>> loss = lambda variables: jnp.sum((variables["params"]["w"] - 1) ** 2)
      >>> masks = {"params": {"w": jnp.array([True, False])}}
      >>> [float(part) for part in gradient_flow(loss, model, masks)]
      [16.0, 4.0]
    """
    rest = {name: tree for name, tree in variables.items() if name != "params"}
    slope = jax.grad(lambda params: loss(rest | {"params": params}))(
        variables["params"]
    )
    squares = jax.tree.map(jnp.square, slope)
    pruned = jax.tree.map(jnp.logical_not, kept["params"])
    return dot(squares, kept["params"]), dot(squares, pruned)


def barrier(loss: Loss, models: Variables) -> jax.Array:
    """Returns the mean loss barrier between models, over all pairs.

    The barrier of two models is the largest excess, on the straight line between them,
    of the loss over the mean of theirs (Frankle et al., arXiv 1912.05671); below 0
    where every point of `POINTS` is better than that.

    Args:
      loss: of a model.
      models: ``[K, ...]``, K at least 2.

    Example:
      Minima at -1 and 1, and a hill between them:

      >>> loss = lambda variables: (variables["w"] ** 2 - 1) ** 2
      >>> round(float(barrier(loss, {"w": jnp.array([-1.0, 1.0])})), 3)
      1.0
    """
    clients = trees.leading_size(models)
    left, right = zip(*combinations(range(clients), 2), strict=True)
    starts, ends = (
        trees.take(models, jnp.array(side, jnp.int32)) for side in (left, right)
    )
    of_each = jax.lax.map(loss, models)

    def on_the_way(share: float) -> jax.Array:
        between = jax.tree.map(lambda a, b: (1 - share) * a + share * b, starts, ends)
        return jax.lax.map(loss, between)

    highest = jnp.max(jnp.stack([on_the_way(share) for share in POINTS]), axis=0)
    means = (of_each[jnp.array(left)] + of_each[jnp.array(right)]) / 2
    return jnp.mean(highest - means)
