"""When forms change: against every possible sequence, tried out."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax.training.compact.timing import change_now, foreseen


def total(paid, costs, spans, compilation, changes):
    """Seconds of a run that changes at these points to the form that fits there."""
    price, seconds = paid, compilation * len(changes)
    for point, span in enumerate(spans):
        price = costs[point] if point in changes else price
        seconds += price * span
    return seconds


@given(
    st.integers(1, 5).flatmap(
        lambda n: st.tuples(
            st.lists(st.floats(0.1, 2.0), min_size=n, max_size=n),
            st.lists(st.integers(1, 20), min_size=n, max_size=n),
        )
    ),
    st.floats(0.5, 2.0),
    st.floats(0.0, 10.0),
)
def test_the_choice_begins_the_best_of_all_sequences(points, paid, compilation):
    costs, spans = points
    best = {True: np.inf, False: np.inf}
    for size in range(len(costs) + 1):
        for changes in itertools.combinations(range(len(costs)), size):
            seconds = total(paid, costs, spans, compilation, changes)
            best[0 in changes] = min(best[0 in changes], seconds)
    if abs(best[True] - best[False]) < 1e-9:
        return  # either will do
    chosen = change_now(paid, costs, spans, compilation)
    assert chosen == (best[True] < best[False])


def test_foreseen_masks_are_nested_and_as_sparse_as_the_schedule_says():
    rng = np.random.default_rng(0)
    variables = {"params": {"a": rng.normal(size=(20, 30)), "b": rng.normal(size=9)}}
    masks = {
        "params": {k: np.abs(v) > 0.5 for k, v in variables["params"].items()},
        "batch_stats": {"mean": np.ones(3, bool)},
    }
    every, spans = foreseen(variables, masks, lambda t: t / 20, 10, 18, points=4)
    assert spans == [2, 2, 2, 2] and every[0] is masks
    total = 20 * 30 + 9
    for t, kept in zip((12, 14, 16), every[1:], strict=True):
        count = sum(int(mask.sum()) for mask in kept["params"].values())
        assert count == total - int(t / 20 * total)
        assert all(np.all(kept["params"][k] <= masks["params"][k]) for k in "ab")
        assert kept["batch_stats"] is masks["batch_stats"]
