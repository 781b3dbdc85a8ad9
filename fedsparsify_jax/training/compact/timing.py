"""Changes to another form: a compilation against what it saves until the next one.

A schedule says how sparse the model will be, and today's magnitudes say roughly where,
so the masks of later rounds can be foreseen. With them the cheapest sequence of forms
is a shortest path over the rounds that are left.
"""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from fedsparsify_jax.types import Masks, Variables


def change_now(
    paid: float, costs: Sequence[float], spans: Sequence[int], compilation: float
) -> bool:
    """Returns whether the cheapest sequence of forms begins with a change.

    Args:
      paid: seconds a round of the form in use.
      costs: seconds a round of the form that fits the masks now, then of those that
        will fit at later points; each form goes on fitting.
      spans: rounds from every point to the next; of the last one to the end.
      compilation: seconds that another form takes.

    Example:
      Ten rounds at half the price are worth three seconds, five are not if a form at a
      quarter comes up then:

      >>> change_now(1.0, [0.5], [10], 3.0), change_now(1.0, [0.5], [5], 3.0)
      (True, False)
      >>> change_now(1.0, [0.5, 0.2], [5, 10], 3.0)
      False
    """
    points = len(costs)
    starts = np.cumsum([0, *spans])
    # rest[i]: the least that the rounds from point i on take with a change there.
    rest = np.zeros(points + 1)

    def least(price: float, since: int) -> float:
        later = range(since + 1, points + 1)
        return min(price * (starts[i] - starts[since]) + rest[i] for i in later)

    for point in reversed(range(points)):
        rest[point] = compilation + least(costs[point], point)
    return bool(rest[0] < least(paid, 0))


def foreseen(
    variables: Variables,
    masks: Masks,
    sparsity: Callable[[int], float],
    now: int,
    last: int,
    *,
    points: int = 8,
) -> tuple[list[Masks], list[int]]:
    """Foresees the masks of later rounds: the largest of today's weights.

    Args:
      variables: the model, concrete.
      masks: its masks.
      sparsity: round to the sparsity after it.
      now: rounds that are completed.
      last: rounds of the run.
      points: at how many equal steps to look.

    Returns:
      The masks now and at those points, and the rounds from each to the next.

    Example:
      >>> w = {"params": {"w": np.array([4.0, 3.0, 2.0, 1.0])}}
      >>> later, spans = foreseen(w, {"params": {"w": w["params"]["w"] > 0}},
      ...                         lambda t: t / 8, 0, 8, points=2)
      >>> [kept["params"]["w"].tolist() for kept in later], spans
      ([[True, True, True, True], [True, True, False, False]], [4, 4])
    """
    left = last - now
    rounds = sorted({now + left * n // points for n in range(points)})
    weights = np.concatenate(
        [np.abs(np.ravel(leaf)) for leaf in jax.tree.leaves(variables["params"])]
    )
    order = np.sort(weights)
    every = [masks]
    for t in rounds[1:]:
        pruned = min(int(sparsity(t) * weights.size), weights.size - 1)
        least = order[pruned]
        kept = jax.tree.map(
            lambda leaf, mask, least=least: mask & (np.abs(leaf) >= least),
            variables["params"],
            masks["params"],
        )
        every.append({**masks, "params": kept})
    return every, np.diff([*rounds, last]).tolist()
