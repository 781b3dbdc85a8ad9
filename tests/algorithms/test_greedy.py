"""PruneFL's greedy choice against the greedy loop of the paper."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsparsify_jax.algorithms._shared.greedy import most_efficient, most_important

LEAVES = {"a": 7, "b": 5}


def greedy(
    importance: np.ndarray, times: np.ndarray, stay: np.ndarray, fixed: float
) -> np.ndarray:
    """Adds candidates in order while their ratio exceeds the gain so far."""
    kept = stay.copy()
    gained = importance[stay].astype(float).sum()
    spent = fixed + times[stay].sum()
    for j in np.argsort(-importance / times, kind="stable"):
        if stay[j]:
            continue
        if importance[j] / times[j] <= gained / spent:
            break
        kept[j] = True
        gained += importance[j]
        spent += times[j]
    return kept


def split(flat: np.ndarray) -> dict[str, jnp.ndarray]:
    return {"a": jnp.asarray(flat[:7]), "b": jnp.asarray(flat[7:])}


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    fixed=st.sampled_from([0.01, 0.5, 5.0, 100.0]),
    staying=st.integers(0, 12),
    slow=st.sampled_from([1.0, 0.25, 3.0]),
)
def test_the_greedy_set(seed: int, fixed: float, staying: int, slow: float) -> None:
    rng = np.random.default_rng(seed)
    importance = (rng.permutation(12) + 1.0).astype(np.float32) ** 2
    times = np.repeat([1.0, slow], [7, 5])
    stay = rng.permutation(12) < staying
    kept = most_efficient(
        split(importance * np.float32(1e-9)),  # squared gradients are small
        {"a": 1.0, "b": slow},
        split(stay),
        fixed_time=fixed,
    )
    found = np.concatenate([kept["a"], kept["b"]])
    expected = greedy(importance, times, stay, fixed)
    gain = lambda m: importance[m].sum() / (fixed + times[m].sum())
    # Candidates exactly at the final gain may go either way.
    differ = found != expected
    np.testing.assert_allclose((importance / times)[differ], gain(expected), rtol=1e-5)


def test_ineligible_weights_are_no_candidates() -> None:
    importance = {"a": jnp.array([1.0, 9.0, 8.0])}
    stay = {"a": jnp.array([True, False, False])}
    within = {"a": jnp.array([True, False, True])}
    kept = most_efficient(importance, {"a": 1.0}, stay, fixed_time=1.0, within=within)
    assert kept["a"].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("stay", "kept"),
    [
        ([0, 0, 0, 0], [1, 0, 1, 0]),
        ([0, 1, 0, 0], [1, 1, 0, 0]),
        ([0, 1, 0, 1], [0, 1, 0, 1]),
        ([0, 1, 1, 1], [0, 1, 1, 0]),
    ],
)
def test_an_exact_count_whatever_stays(stay: list[int], kept: list[int]) -> None:
    scores = {"w": jnp.array([4.0, 2.0, 3.0, 1.0])}
    found = most_important(scores, {"w": jnp.array(stay, bool)}, 0.5)
    assert found["w"].astype(int).tolist() == kept
