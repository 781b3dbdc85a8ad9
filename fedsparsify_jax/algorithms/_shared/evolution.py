"""Evolutionary search over short vectors of genes, as one scan."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedsparsify_jax.types import Key

Fitness = Callable[[jax.Array], jax.Array]
"""Genes of a population ``[P, L]`` to their values ``[P]``; larger ones are better."""


def evolved(
    key: Key,
    first: jax.Array,
    fitness: Fitness,
    *,
    generations: int,
    parents: int = 10,
    crossovers: int = 12,
    mutations: int = 12,
    rate: float = 0.1,
) -> jax.Array:
    """Returns the best genes of all that were tried: ``[L]``.

    A generation tries children of the best so far. A crossover has every gene from one
    of two parents; a mutation multiplies each gene of a parent by ``1 + N(0, 1)``, with
    a probability.

    Args:
      key: of all draws.
      first: the first population ``[P, L]``; equal values are ranked in its order.
      fitness: what is searched for.
      generations: how often children are tried after that; 0 ranks the first alone.
      parents: how many of the best have children.
      crossovers: children of two of them, in a generation.
      mutations: children of one.
      rate: probability that a mutation changes a gene.

    Example:
      >>> first = jnp.array([[1.0, 4.0], [3.0, 1.0]])
      >>> best = evolved(jax.random.key(0), first, lambda g: -jnp.sum((g - 3) ** 2, 1),
      ...                generations=20)
      >>> [round(float(gene)) for gene in best]
      [3, 3]
    """
    parents = min(parents, len(first))

    def best(genes: jax.Array, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        order = jnp.argsort(-values)[:parents]  # stable; NaN comes last
        return genes[order], values[order]

    def children(key: Key, elite: jax.Array) -> jax.Array:
        pair, mix, one, hit, step = jax.random.split(key, 5)
        length = elite.shape[1]
        mothers, fathers = elite[
            jax.random.randint(pair, (2, crossovers), 0, len(elite))
        ]
        mixed = jnp.where(
            jax.random.bernoulli(mix, 0.5, (crossovers, length)), mothers, fathers
        )
        chosen = elite[jax.random.randint(one, (mutations,), 0, len(elite))]
        changes = jax.random.bernoulli(hit, rate, chosen.shape)
        factors = 1 + jax.random.normal(step, chosen.shape)
        changed = jnp.where(changes, chosen * factors, chosen)
        return jnp.concatenate([mixed, changed])

    def generation(
        elite: tuple[jax.Array, jax.Array], number: jax.Array
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        genes, values = elite
        new = children(jax.random.fold_in(key, number), genes)
        genes = jnp.concatenate([genes, new])
        return best(genes, jnp.concatenate([values, fitness(new)])), None

    start = best(first, fitness(first))
    (genes, _), _ = jax.lax.scan(generation, start, jnp.arange(generations))
    return genes[0]
