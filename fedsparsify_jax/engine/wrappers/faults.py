"""Clients that fail in a round: they drop out, straggle, or send broken numbers.

A round goes on with those that are left, re-weighted; the engine does the rest:

* who **drops out** sends nothing: weight 0, no vote, 0 bytes, its state as it was;
* who **straggles** makes only a share of its local steps, and counts with its n_k all
  the same (FedNova would scale its update; FedAvg, whose rounds these are, does not);
* an upload with a **NaN or an infinity** in it is rejected, whether injected here or
  the client's own divergence: its bytes count, but neither its numbers, its vote, its
  loss nor the state that it would have kept.

`Faults` injects failures for tests and studies. Broken uploads are looked for in every
round, with or without it.

References:
  McMahan et al., arXiv 1602.05629 (a round proceeds with the clients that answer);
  Wang et al., Tackling the Objective Inconsistency Problem (FedNova), arXiv 2007.07481.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.trees import Tree
from fedsparsify_jax.types import Key, PyTree

Chance = ArrayLike | Callable[[jax.Array, jax.Array], ArrayLike]
"""How likely a client fails in a round: a probability; one for each client, ``[N]``;
one for each round and client, ``[T, N]`` (never after round T); or a function of the
round t and the ids ``[K]``. Of zeros and ones it is a schedule."""


class Faults(NamedTuple):
    """Chances of faults, by client and by round; numbers may be traced."""

    dropout: Chance = 0.0  # sends nothing
    straggle: Chance = 0.0  # makes only `effort` of its steps
    effort: ArrayLike = 0.5  # in (0, 1]; at least one step is made
    broken: Chance = 0.0  # sends NaN, or infinities


class ClientFaults(NamedTuple):
    """The faults of the clients of a cohort in one round; leaves ``[K]``."""

    participating: jax.Array  # bool; False for a dropout
    straggling: jax.Array  # bool; False for a dropout
    effort: jax.Array  # float32: share of its local steps; 0 for a dropout
    corruption: jax.Array  # float32: what its upload is overwritten with; 0 for nothing


def within(chance: ArrayLike, first: int, last: int) -> Chance:
    """Returns a chance that holds in the rounds ``first`` to ``last`` alone.

    >>> burst = within(0.5, 2, 3)
    >>> [float(burst(t, jnp.arange(4))) for t in (1, 2, 3, 4)]
    [0.0, 0.5, 0.5, 0.0]
    """

    def during(t: jax.Array, ids: jax.Array) -> jax.Array:
        del ids
        return jnp.where((first <= t) & (t <= last), chance, 0.0)

    return during


def chances(chance: Chance, t: jax.Array, ids: jax.Array) -> jax.Array:
    """Returns the probabilities of a round's clients: float32 ``[K]``.

    Args:
      chance: see `Chance`.
      t: the round, an int32 scalar.
      ids: of the clients, int32 ``[K]``.

    >>> table = jnp.array([[0.0, 1.0], [0.5, 0.0]])
    >>> [chances(table, t, jnp.array([1])).tolist() for t in (1, 2, 3)]
    [[1.0], [0.0], [0.0]]
    """
    if callable(chance):
        chance = chance(t, ids)
        if jnp.ndim(chance) > 1:
            raise ValueError(
                f"a chance of failure has shape {jnp.shape(chance)}: a function gives "
                "one number, or one for each of the clients"
            )
    elif jnp.ndim(chance) == 1:
        chance = jnp.asarray(chance)[ids]
    elif jnp.ndim(chance) == 2:
        table = jnp.asarray(chance, jnp.float32)
        row = table[jnp.minimum(t, len(table)) - 1, ids]
        chance = jnp.where(t <= len(table), row, 0.0)
    elif jnp.ndim(chance) > 2:
        raise ValueError(
            f"a chance of failure has shape {jnp.shape(chance)}: it must be a number, "
            "[N], or [T, N]"
        )
    return jnp.broadcast_to(jnp.asarray(chance, jnp.float32), ids.shape)


def check(faults: Faults) -> None:
    """Refuses numbers out of range, where they are plain numbers.

    Raises:
      ValueError: naming the field, its value and what is allowed.
    """
    for name in ("dropout", "straggle", "broken"):
        value = getattr(faults, name)
        if isinstance(value, int | float) and not 0 <= value <= 1:
            raise ValueError(f"faults: {name} is {value}: it must be between 0 and 1")
    if isinstance(faults.effort, int | float) and not 0 < faults.effort <= 1:
        raise ValueError(
            f"faults: effort is {faults.effort}: it must be above 0 and at most 1"
        )


def sample_faults(
    faults: Faults, key: Key, t: jax.Array, ids: jax.Array
) -> ClientFaults:
    """Draws what befalls the clients of a round.

    It depends on the key and a client's id, not on the other clients of the cohort.

    Args:
      faults: how likely what is.
      key: of the round's faults.
      t: the round, an int32 scalar.
      ids: of the clients, int32 ``[K]``.

    Example:
      >>> jitted = jax.jit(sample_faults)  # its NaN are no error in there
      >>> fault = jitted(Faults(dropout=1.0), jax.random.key(0), 1, jnp.arange(3))
      >>> fault.participating.tolist(), fault.effort.tolist()
      ([False, False, False], [0.0, 0.0, 0.0])
    """

    def draw(id: jax.Array) -> jax.Array:
        return jax.random.uniform(jax.random.fold_in(key, id), (4,))

    draws = jax.vmap(draw)(ids)
    participating = ~(draws[:, 0] < chances(faults.dropout, t, ids))
    straggling = participating & (draws[:, 1] < chances(faults.straggle, t, ids))
    broken = participating & (draws[:, 2] < chances(faults.broken, t, ids))
    effort = jnp.where(straggling, jnp.asarray(faults.effort, jnp.float32), 1.0)
    kind = jnp.where(draws[:, 3] < 0.5, jnp.nan, jnp.inf)
    return ClientFaults(
        participating=participating,
        straggling=straggling,
        effort=jnp.where(participating, effort, 0.0),
        corruption=jnp.where(broken, kind, 0.0),
    )


def left_out(fault: ClientFaults | None, joined: jax.Array) -> ClientFaults:
    """Makes dropouts of those who did not join; None for no other faults.

    >>> left_out(None, jnp.array([True, False])).effort.tolist()
    [1.0, 0.0]
    """
    if fault is None:
        return ClientFaults(
            participating=joined,
            straggling=jnp.zeros_like(joined),
            effort=joined.astype(jnp.float32),
            corruption=jnp.zeros(joined.shape, jnp.float32),
        )
    return ClientFaults(
        participating=fault.participating & joined,
        straggling=fault.straggling & joined,
        effort=jnp.where(joined, fault.effort, 0.0),
        corruption=jnp.where(joined, fault.corruption, 0.0),
    )


def corrupted(tree: Tree, corruption: jax.Array) -> Tree:
    """Overwrites the floats of a tree, unless the corruption is 0."""

    def overwrite(leaf: jax.Array) -> jax.Array:
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            return leaf
        return jnp.where(corruption == 0, leaf, corruption.astype(leaf.dtype))

    return jax.tree.map(overwrite, tree)


def is_finite(tree: PyTree) -> jax.Array:
    """Returns whether every number of a tree is finite: a bool scalar.

    >>> bool(is_finite({"w": jnp.ones(2)})), bool(is_finite({"w": jnp.array(jnp.inf)}))
    (True, False)
    """
    finite = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack(finite)) if finite else jnp.bool_(True)
