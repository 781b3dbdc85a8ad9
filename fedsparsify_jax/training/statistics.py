"""Running statistics of a network, measured anew on some examples."""

import jax
import jax.numpy as jnp

from fedsparsify_jax import trees
from fedsparsify_jax.method import Batch
from fedsparsify_jax.training.forward import training_pass
from fedsparsify_jax.types import ApplyFn, ClientData, Key, PyTree, Variables


def batches_in_order(data: ClientData, batch_size: int) -> Batch:
    """Returns all examples of one client as batches, stacked ``[S, B, ...]``.

    Rows that are not valid repeat the first example.

    >>> data = ClientData(jnp.arange(3.0), jnp.arange(3), jnp.int32(3))
    >>> batches_in_order(data, 2).valid.tolist()
    [[True, True], [True, False]]
    """
    length = data.y.shape[0]
    size = min(batch_size, length)
    slots = jnp.arange(-(-length // size) * size).reshape(-1, size)
    valid = slots < data.sizes
    index = jnp.where(valid, slots, 0)
    return Batch(data.x[index], data.y[index], valid)


def re_estimated(
    apply_fn: ApplyFn, key: Key, variables: Variables, batches: Batch
) -> Variables:
    """Replaces running statistics by the mean of those of some batches.

    A training step turns a statistic r into ``m r + (1 - m) b``, with the batch's b and
    a share m that the network keeps to itself. m is the derivative by r and the step
    from r = 0 gives ``(1 - m) b``, so that b is known whatever m is, and the result
    does not depend on the statistics before. Counters, and what no step changes, stay.

    Args:
      apply_fn: the model's forward pass.
      key: of what it draws.
      variables: the model.
      batches: ``[S, B, ...]``, see `batches_in_order`; they count by their examples.

    Returns:
      The variables, with the same parameters.

    Example:
      >>> def mean_of(variables, x, *, train=False, key=None, valid=None):
      ...     moved = 0.9 * variables["stats"] + 0.1 * jnp.mean(x)
      ...     return x, {"stats": moved}
      >>> variables = {"params": {}, "stats": jnp.float32(7)}
      >>> batches = Batch(jnp.array([[2.0], [4.0]]), None, jnp.ones((2, 1), bool))
      >>> new = re_estimated(mean_of, jax.random.key(0), variables, batches)
      >>> new["stats"].round(4)
      Array(3., dtype=float32)
    """
    old = {name: tree for name, tree in variables.items() if name != "params"}
    leaves, structure = jax.tree.flatten(old)
    moving = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    if not any(moving):
        return variables
    start = [jnp.zeros_like(leaf) for leaf, m in zip(leaves, moving, strict=True) if m]
    numbers, with_keys = trees.hide_keys(key)

    def put(values: list[jax.Array]) -> PyTree:
        queue = iter(values)
        merged = [
            next(queue) if m else leaf for leaf, m in zip(leaves, moving, strict=True)
        ]
        return jax.tree.unflatten(structure, merged)

    def of_batch(batch: Batch) -> tuple[list[jax.Array], list[jax.Array]]:
        def step(values: list[jax.Array]) -> list[jax.Array]:
            before = variables | put(values)
            _, changed = training_pass(
                apply_fn, before, batch.x, key=with_keys(numbers), valid=batch.valid
            )
            after = jax.tree.leaves({name: (before | changed)[name] for name in old})
            return [leaf for leaf, m in zip(after, moving, strict=True) if m]

        ones = [jnp.ones_like(leaf) for leaf in start]
        moved, shares = jax.jvp(step, (start,), (ones,))
        examples = jnp.sum(batch.valid, dtype=jnp.float32)
        # Statistics of no example may be NaN.
        counts = [(share < 1) & (examples > 0) for share in shares]
        sums = [
            jnp.where(use, b * examples / jnp.where(use, 1 - share, 1), 0)
            for use, b, share in zip(counts, moved, shares, strict=True)
        ]
        return sums, [jnp.where(use, examples, 0.0) for use in counts]

    sums, weights = jax.tree.map(
        lambda leaf: jnp.sum(leaf, axis=0), jax.lax.map(of_batch, batches)
    )
    floats = [leaf for leaf, m in zip(leaves, moving, strict=True) if m]
    new = [
        jnp.where(w > 0, total / jnp.where(w > 0, w, 1), leaf).astype(leaf.dtype)
        for total, w, leaf in zip(sums, weights, floats, strict=True)
    ]
    return variables | put(new)
