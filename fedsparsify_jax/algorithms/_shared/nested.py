"""Sub-networks within one network: nested masks, and statistics for each of them.

Level 0 is the network itself, and every further level keeps a part of what the level
before it keeps. How many levels keep a weight, its depth, is one small number, and says
all masks. Running statistics of levels 1, 2, ... are a collection of the variables.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from fedsparsify_jax.engine.wrappers.variables import checked
from fedsparsify_jax.masks import apply
from fedsparsify_jax.pruning.selection import magnitude, prune
from fedsparsify_jax.types import (
    FederatedAlgorithm,
    Key,
    Masks,
    Prunable,
    PyTree,
    Scope,
    State,
    Variables,
)

COLLECTION = "statistics_of_levels"


def depths(
    variables: Variables,
    masks: Masks,
    sparsities: Sequence[ArrayLike],
    *,
    scope: Scope = "global",
    prunable: Prunable | None = None,
) -> PyTree:
    """Counts the levels that keep every parameter: a tree of uint8 for ``params``.

    Args:
      variables: those with the largest parameters are kept the longest.
      masks: of level 0.
      sparsities: of levels 1, 2, ..., rising.
      scope: what shares a threshold, see `pruning.prune`.
      prunable: which leaves may be pruned.

    Example:
      >>> variables = {"params": {"w": jnp.array([4.0, 3.0, 2.0, 0.0])}}
      >>> kept = {"params": {"w": jnp.array([True, True, True, False])}}
      >>> depths(variables, kept, (0.5, 0.75))["w"].tolist()
      [3, 2, 1, 0]
    """
    scores = magnitude(variables)
    depth = jax.tree.map(lambda mask: mask.astype(jnp.uint8), masks["params"])
    for sparsity in sparsities:
        masks = prune(scores, sparsity, scope=scope, within=masks, prunable=prunable)
        depth = jax.tree.map(lambda d, mask: d + mask, depth, masks["params"])
    return depth


def level(params: PyTree, depth: PyTree, number: int) -> PyTree:
    """Returns the parameters of a level, with zeros for others.

    >>> level({"w": jnp.array([4.0, 3.0])}, {"w": jnp.array([2, 1], jnp.uint8)}, 1)
    {'w': Array([4., 0.], dtype=float32)}
    """
    return apply(jax.tree.map(lambda d: d > number, depth), params)


def without(variables: Variables) -> Variables:
    """Returns the variables that the network knows."""
    return {name: tree for name, tree in variables.items() if name != COLLECTION}


def statistics(variables: Variables) -> Variables:
    """Returns the collections of level 0 beside its parameters."""
    return {n: t for n, t in without(variables).items() if n != "params"}


def of_level(variables: Variables, depth: PyTree, number: int) -> Variables:
    """Returns the network of a level, with its statistics."""
    network = without(variables)
    if number == 0:
        return network
    if COLLECTION in variables:
        network = network | variables[COLLECTION][str(number)]
    return network | {"params": level(network["params"], depth, number)}


def others(prunable: Prunable | None) -> Prunable | None:
    """Returns the rule of prunable leaves that statistics of levels are no leaf for."""
    if prunable is None:
        return None
    return lambda name: name.split("/")[0] != COLLECTION and prunable(name)


def with_levels(
    algorithm: FederatedAlgorithm, names: Sequence[str]
) -> FederatedAlgorithm:
    """Gives a network's levels statistics, and makes them the algorithm's variants.

    Args:
      algorithm: its ``state.server`` is what `depths` returns.
      names: of all levels.
    """

    def init(key: Key, variables: Variables) -> State:
        variables = checked(variables)
        first = statistics(variables)
        if first and len(names) > 1:
            copies = {str(i): first for i in range(1, len(names))}
            variables = variables | {COLLECTION: copies}
        return algorithm.init(key, variables)

    def variants(state: State) -> dict[str, Variables]:
        variables = algorithm.model(state)
        return {
            name: of_level(variables, state.server, number)
            for number, name in enumerate(names)
        }

    return algorithm._replace(
        init=init,
        model=lambda state: without(algorithm.model(state)),
        variants=variants,
    )
