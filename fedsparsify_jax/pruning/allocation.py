"""Division of a sparsity budget among the leaves of a model."""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def kept_count(size: int, sparsity: ArrayLike) -> jax.Array:
    """Returns ``n - floor(s n)`` as an int32 scalar.

    Exact for a Python float; for a traced one ``s n`` is rounded to float32, which
    moves the count by at most ``1 + n / 10^6``.

    >>> int(kept_count(118_282, 0.95))
    5915
    """
    if isinstance(sparsity, int | float):
        return jnp.int32(size - math.floor(sparsity * size))
    pruned = jnp.floor(jnp.clip(sparsity, 0.0, 1.0) * jnp.float32(size))
    return jnp.clip(size - pruned.astype(jnp.int32), 0, size)


def _densities(
    shapes: list[tuple[int, ...]], raw: list[float] | jax.Array, density: ArrayLike
) -> jax.Array:
    """Solves ``min(1, eps * raw)`` for eps, given the density of the whole."""
    sizes = jnp.array([math.prod(shape) for shape in shapes], jnp.float32)
    share = jnp.asarray(raw, jnp.float32)
    budget = jnp.float32(sum(math.prod(shape) for shape in shapes)) * density

    def scale(dense: jax.Array) -> jax.Array:
        spent = jnp.sum(jnp.where(dense, sizes, 0.0))
        rest = jnp.sum(jnp.where(dense, 0.0, share * sizes))
        return jnp.where(rest > 0, (budget - spent) / jnp.where(rest > 0, rest, 1.0), 0)

    dense = jnp.zeros(len(shapes), bool)
    for _ in shapes:  # at most one more layer turns dense in every pass
        dense = dense | (scale(dense) * share >= 1.0)
    return jnp.where(dense, 1.0, jnp.clip(scale(dense) * share, 0.0, 1.0))


def erk_densities(shapes: list[tuple[int, ...]], density: ArrayLike) -> jax.Array:
    """Erdos-Renyi-kernel densities of layers: float32 ``[len(shapes)]``.

    Layer l gets ``min(1, eps * sum(dims) / prod(dims))``; layers that would exceed 1
    become dense and eps is solved again, until the whole has the wanted density.

    Args:
      shapes: kernel shapes, all dimensions counted (that is the K of ERK).
      density: wanted share of kept weights over all shapes; may be traced.

    References:
      Evci et al., Rigging the Lottery (arXiv 1911.11134), section 3, "Erdos-Renyi
      Kernel".

    Example:
      >>> shapes = [(5, 5, 3, 6), (5, 5, 6, 16), (6400, 120), (120, 84), (84, 10)]
      >>> [round(float(d), 3) for d in erk_densities(shapes, 0.2)]
      [0.969, 0.306, 0.195, 0.465, 1.0]
    """
    raw = [sum(shape) / math.prod(shape) for shape in shapes]
    return _densities(shapes, raw, density)


def er_densities(shapes: list[tuple[int, ...]], density: ArrayLike) -> jax.Array:
    """Erdos-Renyi densities: as `erk_densities`, without the kernel dimensions.

    Layer l gets ``min(1, eps * (n_in + n_out) / (n_in * n_out))``, where n_in and
    n_out are the last two dimensions of a Flax kernel.

    References:
      Mocanu et al., Scalable training of artificial neural networks with adaptive
      sparse connectivity (arXiv 1707.04780).

    Example:
      >>> [round(float(d), 3) for d in er_densities([(100, 50), (50, 10)], 0.2)]
      [0.157, 0.629]
    """
    raw = [sum(shape[-2:]) / math.prod(shape[-2:]) for shape in shapes]
    return _densities(shapes, raw, density)


def erk_feddst_densities(
    shapes: list[tuple[int, ...]], density: ArrayLike
) -> jax.Array:
    """Returns the ERK of FedDST's code, which scales sparsities, not densities.

    Layer l has the sparsity ``C * (1 - sum(dims) / prod(dims))`` with C solved for
    the whole, which is nearly uniform. Layers that would exceed sparsity 1 end there.

    References:
      Bibikar et al., Federated Dynamic Sparse Training (arXiv 2112.09824), code.

    Example:
      >>> shapes = [(5, 5, 3, 6), (5, 5, 6, 16), (6400, 120), (120, 84), (84, 10)]
      >>> [round(float(d), 3) for d in erk_feddst_densities(shapes, 0.2)]
      [0.227, 0.204, 0.2, 0.209, 0.283]
    """
    sizes = jnp.array([math.prod(shape) for shape in shapes], jnp.float32)
    raw = jnp.array([1 - sum(shape) / math.prod(shape) for shape in shapes])
    raw = jnp.maximum(raw, 0.0)
    total = jnp.maximum(jnp.sum(raw * sizes), 1.0)
    scale = (1 - jnp.asarray(density)) * jnp.sum(sizes) / total
    return jnp.clip(1 - scale * raw, 0.0, 1.0)


RULES: dict[str, Callable[[list[tuple[int, ...]], ArrayLike], jax.Array]] = {
    "er": er_densities,
    "erk": erk_densities,
    "erk_feddst": erk_feddst_densities,
}
"""Rules that divide a budget unevenly: shapes and a density to densities."""


def erk_counts(
    shapes: list[tuple[int, ...]], sparsity: ArrayLike, *, rule: str = "erk"
) -> list[jax.Array]:
    """Counts the entries that each leaf keeps under a rule of `RULES`: int32 scalars.

    Vectors (biases, norm scales) stay dense but count against the budget; the sum is
    the exact ``n - floor(s n)`` of `kept_count` whenever the vectors leave room for it.
    """
    sizes = [math.prod(shape) for shape in shapes]
    kernels = [i for i, shape in enumerate(shapes) if len(shape) >= 2]
    if not kernels:
        raise ValueError(
            f"{rule.upper()} needs at least one leaf of two dimensions or more"
        )
    budget = kept_count(sum(sizes), sparsity)
    budget -= sum(size for i, size in enumerate(sizes) if i not in kernels)
    total = sum(sizes[i] for i in kernels)
    budget = jnp.clip(budget, 0, total)
    densities = RULES[rule]([shapes[i] for i in kernels], budget / total)
    counts = [jnp.int32(size) for size in sizes]
    return _whole_counts(counts, sizes, kernels, densities, budget)


def varied_counts(
    shapes: list[tuple[int, ...]], counts: list[jax.Array], factors: jax.Array
) -> list[jax.Array]:
    """Divides what kernels keep among them anew: int32 scalars of the same sum.

    Args:
      shapes: of the leaves.
      counts: entries that each keeps so far; vectors go on with theirs.
      factors: ``[len(shapes)]``, above 0: by how much more or less of a kernel is to be
        kept than of the others, as far as there is as much of it. May be traced.

    Example:
      >>> half = [jnp.int32(10), jnp.int32(10)]
      >>> varied_counts([(4, 5), (4, 5)], half, jnp.array([3.0, 1.0]))
      [Array(15, dtype=int32), Array(5, dtype=int32)]
    """
    sizes = [math.prod(shape) for shape in shapes]
    kernels = [i for i, shape in enumerate(shapes) if len(shape) >= 2]
    if not kernels:
        return counts
    budget = sum((counts[i] for i in kernels), start=jnp.int32(0))
    raw = jnp.stack([factors[i] * counts[i] / sizes[i] for i in kernels])
    total = sum(sizes[i] for i in kernels)
    densities = _densities([shapes[i] for i in kernels], raw, budget / total)
    return _whole_counts(counts, sizes, kernels, densities, budget)


def _whole_counts(
    counts: list[jax.Array],
    sizes: list[int],
    kernels: list[int],
    densities: jax.Array,
    budget: jax.Array,
) -> list[jax.Array]:
    """Rounds densities of kernels to counts that sum to the budget."""
    counts, spent = list(counts), jnp.int32(0)
    for density, i in zip(densities, kernels, strict=True):
        counts[i] = jnp.floor(density * sizes[i]).astype(jnp.int32)
        spent += counts[i]
    # Rounding leaves a few entries over; layers take them in order of size.
    for i in sorted(kernels, key=lambda i: -sizes[i]):
        taken = jnp.clip(budget - spent, -counts[i], sizes[i] - counts[i])
        counts[i] += taken
        spent += taken
    return counts


def divided(budget: ArrayLike, shares: jax.Array, most: jax.Array) -> jax.Array:
    """Divides whole numbers in proportion to shares, at most so many each.

    What would exceed its limit has that limit, and the others divide what is left, so
    that the sum is the budget whenever the limits leave room for it.

    Args:
      budget: int32, the number to divide; may be traced.
      shares: ``[L]``, 0 or within a factor of 1e30 of each other; may be traced.
      most: int32 ``[L]``, the limits; may be traced.

    Returns:
      int32 ``[L]``. What rounding leaves over goes to the first with room.

    Example:
      >>> divided(10, jnp.array([3.0, 1.0, 1.0]), jnp.array([4, 9, 9])).tolist()
      [4, 3, 3]
    """
    most = jnp.asarray(most, jnp.int32)
    shares = jnp.asarray(shares, jnp.float32)
    budget = jnp.minimum(budget, jnp.sum(most, dtype=jnp.int32))

    def parts(full: jax.Array) -> jax.Array:
        spent = jnp.sum(jnp.where(full, most, 0), dtype=jnp.int32)
        others = jnp.sum(jnp.where(full, 0.0, shares))
        left = (budget - spent).astype(jnp.float32)
        scale = jnp.where(others > 0, left / jnp.where(others > 0, others, 1.0), 0.0)
        return jnp.where(full, most.astype(jnp.float32), scale * shares)

    def fill(_: jax.Array, full: jax.Array) -> jax.Array:
        return full | (parts(full) >= most)

    full = jax.lax.fori_loop(0, len(most), fill, jnp.zeros(most.shape, bool))
    counts = jnp.clip(jnp.floor(parts(full)).astype(jnp.int32), 0, most)
    left = budget - jnp.sum(counts, dtype=jnp.int32)
    counts += _first_come(left, most - counts)
    return counts - _first_come(-left, counts)


def _first_come(number: jax.Array, room: jax.Array) -> jax.Array:
    """Hands a number out, to the first as much as it has room for, and so on."""
    before = jnp.cumsum(room, dtype=jnp.int32) - room
    return jnp.clip(number - before, 0, room)


def regrown_sparsities(
    sizes: Sequence[int],
    genes: jax.Array,
    sparsity: ArrayLike,
    *,
    excess: ArrayLike = 0.05,
) -> jax.Array:
    """Returns the sparsities of layers that are pruned too far and share what returns.

    Layer l gets ``P + d - softmax(v)_l d N / n_l``, with a share ``d`` of all N weights
    to give back, ``min(excess, (1 - P) / 2)``. The sum over l of ``n_l s_l`` is
    ``P N``, but a small layer may come out below 0.

    Args:
      sizes: n_l.
      genes: v, ``[L]``; the logarithms of the sizes give every layer P.
      sparsity: P in [0, 1]; may be traced.
      excess: how much further layers are pruned at first.

    References:
      UniPTS (arXiv 2405.18810); the bound of d is this library's.

    Example:
      >>> sizes = [100, 300]
      >>> regrown_sparsities(sizes, jnp.log(jnp.array([100.0, 300.0])), 0.9).round(4)
      Array([0.9, 0.9], dtype=float32)
      >>> [round(float(s), 3) for s in regrown_sparsities(sizes, jnp.zeros(2), 0.9)]
      [0.85, 0.917]
    """
    n = jnp.array(sizes, jnp.float32)
    sparsity = jnp.asarray(sparsity, jnp.float32)
    returned = jnp.minimum(excess, (1 - sparsity) / 2)
    shares = jax.nn.softmax(genes) * returned * jnp.sum(n) / n
    return sparsity + returned - shares


def regrown_counts(
    sizes: Sequence[int],
    genes: jax.Array,
    sparsity: ArrayLike,
    *,
    excess: ArrayLike = 0.05,
) -> list[jax.Array]:
    """Counts what layers keep under `regrown_sparsities`, with an exact sum.

    Layers that would come out below sparsity 0 are dense, and what they leave over is
    shared by the others in the same proportions: the sum is the ``n - floor(P n)`` of
    `kept_count`.

    Args:
      sizes: n_l.
      genes: v, ``[L]``.
      sparsity: P in [0, 1]; may be traced.
      excess: how much further layers are pruned at first.

    Returns:
      An int32 scalar a layer.

    Example:
      >>> [int(count) for count in regrown_counts([10, 490], jnp.zeros(2), 0.9)]
      [10, 40]
    """
    n = jnp.array(sizes, jnp.float32)
    s = regrown_sparsities(sizes, genes, sparsity, excess=excess)
    kept = 1 - jnp.asarray(sparsity, jnp.float32)
    least = kept - jnp.minimum(excess, kept / 2)
    shares = 1 - s - least
    budget = kept_count(sum(sizes), sparsity)

    def scale(dense: jax.Array) -> jax.Array:
        left = budget - jnp.sum(jnp.where(dense, n, least * n))
        rest = jnp.sum(jnp.where(dense, 0.0, shares * n))
        return jnp.where(rest > 0, left / jnp.where(rest > 0, rest, 1.0), 0)

    dense = jnp.zeros(len(sizes), bool)
    for _ in sizes:  # at most one more layer turns dense in every pass
        dense = dense | (least + scale(dense) * shares >= 1.0)
    densities = jnp.where(dense, 1.0, least + scale(dense) * shares)
    nothing = [jnp.int32(0) for _ in sizes]
    densities = jnp.clip(densities, 0.0, 1.0)
    return _whole_counts(nothing, list(sizes), [*range(len(sizes))], densities, budget)
