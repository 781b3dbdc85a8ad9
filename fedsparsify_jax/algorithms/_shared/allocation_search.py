"""A search for the sparsities of layers: those that leave a model accurate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax import trees
from fedsparsify_jax.algorithms._shared.evolution import evolved
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.method import Batch
from fedsparsify_jax.pruning.allocation import regrown_counts
from fedsparsify_jax.pruning.selection import keep_counts, magnitude
from fedsparsify_jax.training.losses import correct
from fedsparsify_jax.training.statistics import re_estimated
from fedsparsify_jax.types import ApplyFn, Key, Prunable, PyTree, Variables

POPULATION = 25


def counts_of(
    variables: Variables,
    genes: jax.Array,
    sparsity: ArrayLike,
    prunable: Prunable | None = None,
) -> PyTree:
    """Returns what every leaf keeps, see `allocation.regrown_counts`: int32 scalars.

    Args:
      variables: anything with their shapes.
      genes: ``[L]``, of the leaves that may be pruned, in tree order.
      sparsity: of all of these together; may be traced.
      prunable: path of a leaf to whether it may be pruned; others keep everything.

    Example:
      >>> variables = {"b": jnp.zeros(10), "w": jnp.zeros((49, 10))}
      >>> counts_of(variables, jnp.zeros(2), 0.9)
      {'b': Array(10, dtype=int32), 'w': Array(40, dtype=int32)}
    """
    leaves, structure = jax.tree.flatten(variables)
    chosen = jax.tree.leaves(mask_algebra.prunable_leaves(variables, prunable))
    sizes = [leaf.size for leaf, use in zip(leaves, chosen, strict=True) if use]
    counted = iter(regrown_counts(sizes, genes, sparsity))
    counts = [
        next(counted) if use else jnp.int32(leaf.size)
        for leaf, use in zip(leaves, chosen, strict=True)
    ]
    return jax.tree.unflatten(structure, counts)


def searched_counts(
    apply_fn: ApplyFn,
    key: Key,
    variables: Variables,
    batches: Batch,
    sparsity: ArrayLike,
    *,
    generations: int,
    run: ClientMap,
    prunable: Prunable | None = None,
) -> PyTree:
    """Searches what every leaf should keep, see `counts_of`.

    Candidates are judged by how many examples the model gets right when each layer
    keeps its largest weights and statistics are measured anew.

    Args:
      apply_fn: the model's forward pass.
      key: of the search.
      variables: the dense model.
      batches: calibration examples with their classes, ``[S, B, ...]``.
      sparsity: of all prunable leaves together; may be traced.
      generations: of `evolution.evolved`; 0 gives all leaves the same sparsity.
      run: how a population is judged, as clients of a cohort are run.
      prunable: path of a leaf to whether it may be pruned; others keep everything.
    """
    first_key, search_key, pass_key = jax.random.split(key, 3)
    kept = mask_algebra.prunable_only(variables, prunable)
    uniform = jnp.log(jnp.array([leaf.size for leaf in kept], jnp.float32))
    if generations == 0:
        return counts_of(variables, uniform, sparsity, prunable)
    hits = _hits(apply_fn, pass_key, prunable)

    def fitness(genes: jax.Array) -> jax.Array:
        counts = jax.vmap(lambda v: counts_of(variables, v, sparsity, prunable))(genes)
        values: jax.Array = run(hits, (variables, batches), counts)[1]
        return values

    # The first candidate is the uniform one.
    draws = jax.random.normal(first_key, (POPULATION, len(kept))).at[0].set(0.0)
    first = uniform[jnp.newaxis] + draws
    best = evolved(search_key, first, fitness, generations=generations)
    return counts_of(variables, best, sparsity, prunable)


def _hits(
    apply_fn: ApplyFn, key: Key, prunable: Prunable | None
) -> Callable[[tuple[Variables, Batch], PyTree], jax.Array]:
    """Builds the number of examples that a model gets right under given counts."""
    numbers, with_keys = trees.hide_keys(key)

    def hits(shared: tuple[Variables, Batch], counts: PyTree) -> jax.Array:
        variables, batches = shared
        masks = keep_counts(magnitude(variables), counts, prunable=prunable)
        pruned = mask_algebra.apply(masks, variables)
        pruned = re_estimated(apply_fn, with_keys(numbers), pruned, batches)

        def of_batch(batch: Batch) -> jax.Array:
            outputs, _ = apply_fn(pruned, batch.x)
            return jnp.sum(jnp.where(batch.valid, correct(outputs, batch.y), 0))

        return jnp.sum(jax.lax.map(of_batch, batches))

    return hits
