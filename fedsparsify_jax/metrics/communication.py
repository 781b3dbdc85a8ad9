"""Bytes moved: the cost of one message, and the saving of a schedule.

Three formulas for a message with z non-zeros:

* ``nonzero``, the authors': ``z x 32 bit``; their positions are not counted
  (reference: the authors' code, commit 65b0a49; batch statistics count too),
* ``bitmap``: that and one bit for every prunable number, in whole bytes,
* ``indexed``: ``z x (32 + 32) bit``, every non-zero with its index.

A round moves

    sum over the cohort of (model the client sends) + K * (new global model)

and a dense round ``2 K n x 32 bit``.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import masks, schedules, trees
from fedsparsify_jax.types import Masks, Prunable, PyTree, Schedule, Variables

BYTES_PER_NUMBER = 4
BYTES_PER_INDEX = 4

FORMULAS: dict[str, Callable[[int, int], int]] = {
    "nonzero": lambda nonzeros, _: nonzeros * BYTES_PER_NUMBER,
    "bitmap": lambda nonzeros, prunable: (
        nonzeros * BYTES_PER_NUMBER + -(-prunable // 8)
    ),
    "indexed": lambda nonzeros, _: nonzeros * (BYTES_PER_NUMBER + BYTES_PER_INDEX),
}
"""Name to ``(non-zeros, prunable numbers) -> bytes``, exact on Python integers."""


def nonzero_bytes(variables: Variables) -> jax.Array:
    """Counts the bytes of one message: non-zeros x 32 bit, a uint32 scalar.

    Exact up to 2^30 non-zeros.

    >>> nonzero_bytes({"params": {"w": jnp.array([0.0, 1.5, -2.0])}})
    Array(8, dtype=uint32)
    """
    return trees.nonzeros(variables).astype(jnp.uint32) * BYTES_PER_NUMBER


def kept_bytes(masks: Masks) -> jax.Array:
    """Counts the bytes of one message whose masks travel with it: kept x 32 bit.

    A kept weight that is zero is in the message; the masks themselves are not counted,
    as in `nonzero_bytes`. A uint32 scalar, exact up to 2^30 kept numbers.

    >>> kept_bytes({"params": {"w": jnp.array([False, True, True])}})
    Array(8, dtype=uint32)
    """
    return trees.nonzeros(masks).astype(jnp.uint32) * BYTES_PER_NUMBER


def bitmap_bytes(variables: Variables, prunable: Prunable | None = None) -> jax.Array:
    """Counts the bytes of one message with a bitmap of its non-zeros.

    Non-zeros x 32 bit and one bit for every prunable number, the bits rounded up to
    bytes: a uint32 scalar, exact while the result is below 2^32.

    Args:
      variables: the model that is sent.
      prunable: which leaves may be pruned, see `masks.prunable_leaves`.

    >>> bitmap_bytes({"params": {"w": jnp.array([0.0, 1.5, -2.0])}})
    Array(9, dtype=uint32)
    """
    bits = trees.size(masks.prunable_only(variables, prunable))
    return nonzero_bytes(variables) + jnp.uint32(-(-bits // 8))


def indexed_bytes(variables: Variables) -> jax.Array:
    """Counts the bytes of one message with an index of 32 bit for every non-zero.

    Non-zeros x 64 bit, a uint32 scalar, exact up to 2^29 non-zeros. Indices of
    ``ceil(log2 n)`` bit would be smaller, but are not what sparse formats store.

    >>> indexed_bytes({"params": {"w": jnp.array([0.0, 1.5, -2.0])}})
    Array(16, dtype=uint32)
    """
    each = BYTES_PER_NUMBER + BYTES_PER_INDEX
    return trees.nonzeros(variables).astype(jnp.uint32) * each


def picked_bytes(numbers: PyTree, masks: Masks) -> jax.Array:
    """Counts the bytes of a message with the non-zeros alone: a uint32 scalar.

    Non-zeros x 32 bit and their positions among the kept numbers, in the shortest of
    the forms of ``docs/formats.md`` leaf by leaf. Of gaps, whose exact length would
    take a scan, the most that so many of them can take is counted: beside a code for
    each, one more for every 255 (or 65,535) numbers that are skipped altogether.

    Args:
      numbers: tree of arrays, zero where the masks do not keep them.
      masks: bools of that structure.

    >>> kept = {"w": jnp.ones(80, bool)}
    >>> int(picked_bytes({"w": jnp.zeros(80).at[jnp.array([3, 70])].set(1.0)}, kept))
    10
    """
    total = jnp.uint32(0)
    for leaf, mask in zip(
        jax.tree.leaves(numbers), jax.tree.leaves(masks), strict=True
    ):
        picked = jnp.sum(leaf != 0, dtype=jnp.uint32)
        kept = jnp.sum(mask, dtype=jnp.uint32)
        total += picked * BYTES_PER_NUMBER + _positions_bytes(picked, kept)
    return total


def _positions_bytes(picked: jax.Array, kept: jax.Array) -> jax.Array:
    """Counts the bytes of the positions of some of the kept numbers of a leaf."""
    few = jnp.minimum(picked, kept - picked)  # ones, or zeros if these are fewer
    skipped = kept - few
    forms = [(kept + 7) // 8, few + skipped // 255, 2 * (few + skipped // 65_535)]
    shortest = jnp.min(jnp.stack(forms))
    return jnp.where(picked == kept, jnp.uint32(0), shortest)


def coarse_bytes(masks: Masks, bits: int) -> jax.Array:
    """Counts the bytes of a message with kept numbers of few bits: a uint32 scalar.

    So many bits for every kept number, in whole bytes a leaf, and a float32 scale each.

    >>> int(coarse_bytes({"w": jnp.array([True, True, False, True])}, 4))
    6
    """
    total = jnp.uint32(0)
    for mask in jax.tree.leaves(masks):
        kept = jnp.sum(mask, dtype=jnp.uint32)
        total += kept if bits == 8 else (kept * bits + 7) // 8
    return total + jnp.uint32(BYTES_PER_NUMBER * len(jax.tree.leaves(masks)))


def dense_bytes(variables: Variables) -> int:
    """Counts the bytes of one message if nothing were pruned.

    >>> dense_bytes({"params": {"w": jnp.array([0.0, 1.5, -2.0])}})
    12
    """
    return trees.size(variables) * BYTES_PER_NUMBER


class Saving(NamedTuple):
    """Bytes that a run moves, and that it would move without pruning."""

    total: int  # bytes of all rounds, both ways
    dense: int  # the same for a model of which everything is sent

    @property
    def ratio(self) -> float:
        """Returns how many times less than dense."""
        return self.dense / self.total


def saving(
    final_sparsity: float,
    rounds: int,
    clients: int,
    parameters: int,
    exponent: float = 3.0,
    begin: int = 1,
    every: int = 1,
    *,
    prunable: int | None = None,
    formula: str = "nonzero",
) -> Saving:
    """Computes the bytes of FedSparsify-Global; its schedule alone decides them.

    In round t every client sends a model under the masks of round t-1 and gets the
    new global model, pruned to s_t:

        K * (bytes of kept(t-1) numbers) + K * (bytes of kept(t) numbers)

    with ``kept(t) = parameters - floor(s_t * prunable)``, that is: numbers that may
    not be pruned (batch statistics) are sent in every message. The first model that
    the clients get is not counted, neither are weights that happen to be zero.
    Training cannot change the result, but a schedule traced in float32 may keep
    another ``1 + n / 10^6`` numbers.

    Args:
      final_sparsity: S_T in [0, 1).
      rounds: T.
      clients: K, clients in a round.
      parameters: numbers in a message of the dense model, statistics included.
      exponent: n of the schedule.
      begin: t0.
      every: F.
      prunable: how many of the ``parameters`` may be pruned; all by default.
      formula: one of `FORMULAS`. The dense total is ``32 bit`` a number for all.

    Raises:
      ValueError: for an unknown formula, or counts that cannot be.

    References:
      Stripelis et al., FedSparsify (arXiv 2204.12430): the "3x" in communication.
      With many rounds the ratio tends to ``1 / (1 - n / (n + 1) * S_T)``.

    Example:
      >>> run = saving(0.95, 200, 10, 118_282)
      >>> run.dense, round(run.ratio, 2)
      (1892512000, 3.44)
    """
    prunable = parameters if prunable is None else prunable
    _check(rounds, clients, parameters, prunable, formula)
    schedule = schedules.polynomial(
        final_sparsity, end=rounds, begin=begin, exponent=exponent, every=every
    )
    messages = [
        FORMULAS[formula](kept, prunable)
        for kept in _kept(schedule, rounds, parameters, prunable)
    ]
    total = clients * (sum(messages[:-1]) + sum(messages[1:]))
    return Saving(total, 2 * rounds * clients * parameters * BYTES_PER_NUMBER)


def _kept(schedule: Schedule, rounds: int, parameters: int, prunable: int) -> list[int]:
    """Counts numbers in the global model after rounds 0 (dense), 1, ..., T."""
    targets = (np.asarray(schedule(t)).item() for t in range(1, rounds + 1))
    pruned = [math.floor(target * prunable) for target in targets]
    return [parameters, *(parameters - count for count in pruned)]


def _check(
    rounds: int, clients: int, parameters: int, prunable: int, formula: str
) -> None:
    if formula not in FORMULAS:
        raise ValueError(f"unknown formula {formula!r}: one of {', '.join(FORMULAS)}")
    counts = {"rounds": rounds, "clients": clients, "parameters": parameters}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}: it must be at least 1")
    if not 0 <= prunable <= parameters:
        raise ValueError(
            f"prunable is {prunable}: it must be between 0 and the {parameters} "
            "parameters"
        )
