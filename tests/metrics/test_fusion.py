"""The greedy fusion: beside one in plain Python, and its identities."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax.metrics.fusion import (
    EPSILONS,
    Link,
    accuracy,
    fuse,
    fused,
    members,
)


def plain(past, last, labels, window):
    """Links by loops over examples; accuracy as counts of examples."""

    def right(p):
        # A tie is the first class's, as of argmax.
        return [max(range(len(r)), key=lambda k: (r[k], -k)) for r in p]

    def hits(p):
        return sum(a == b for a, b in zip(right(p), labels, strict=True))

    now, links = [list(map(float, row)) for row in last], []
    while True:
        wrong = [a != b for a, b in zip(right(now), labels, strict=True)]
        helps = [
            sum(w and a == b for w, a, b in zip(wrong, right(p), labels, strict=True))
            for p in past
        ]
        best = helps.index(max(helps))
        near = past[max(0, best - window) : best + window + 1]
        other = np.mean(near, axis=0)
        tried = [(1 - eps) * np.asarray(now) + eps * other for eps in EPSILONS]
        counts = [hits(t) for t in tried]
        if max(counts) <= hits(now):
            return links
        chosen = counts.index(max(counts))
        now = tried[chosen].tolist()
        links.append((best, EPSILONS[chosen]))


@st.composite
def federations(draw):
    seed = draw(st.integers(0, 10_000))
    rng = np.random.default_rng(seed)
    n, classes, number = rng.integers(1, 30), rng.integers(2, 5), rng.integers(1, 7)
    past = rng.dirichlet(np.ones(classes), (number, n))
    last = rng.dirichlet(np.ones(classes), n)
    return past, last, rng.integers(0, classes, n), draw(st.integers(0, 2))


@given(federations())
def test_links_are_those_of_loops_and_only_raise_the_accuracy(case):
    past, last, labels, window = case
    links = fuse(past, last, labels, window=window)
    assert [tuple(link) for link in links] == plain(past, last, labels, window)
    reached = [
        accuracy(fused(past, last, links[:n], window=window), labels)
        for n in range(len(links) + 1)
    ]
    assert reached == sorted(set(reached))
    # Models that are not needed are not looked at.
    needed = members(links, len(past), window)
    few = [p if n in needed else None for n, p in enumerate(past)]
    np.testing.assert_array_equal(
        fused(few, last, links, window=window), fused(past, last, links, window=window)
    )
    np.testing.assert_allclose(fused(past, last, links, window=window).sum(axis=-1), 1)


def test_the_last_model_alone_is_itself():
    last, labels = np.array([[0.6, 0.4], [0.2, 0.8]]), np.array([1, 1])
    assert fuse(last[None], last, labels) == []
    assert fuse(np.zeros((0, 2, 2)), last, labels) == []
    np.testing.assert_array_equal(fused([], last, []), last)


def test_what_was_forgotten_comes_back():
    """Model 1 of three knows example 0, which the last one has forgotten."""
    last = np.array([[0.4, 0.6], [0.1, 0.9], [0.1, 0.9]])
    past = np.tile([0.4, 0.6], (3, 3, 1))
    past[1, 0] = [0.9, 0.1]
    labels = np.array([0, 1, 1])
    # 0.4 + 0.5 eps is above 0.5 from eps = 0.2 on.
    links = fuse(past, last, labels, window=0, epsilons=(0.1, 0.3, 0.5))
    assert links == [Link(1, 0.3)]
    # The mean with its neighbours, (0.57, 0.43), needs more weight, above 0.6.
    links = fuse(past, last, labels, window=1, epsilons=(0.1, 0.5, 0.7))
    assert links == [Link(1, 0.7)] and members(links, 3, 1) == [0, 1, 2]


def test_a_window_below_zero_is_refused():
    with pytest.raises(ValueError, match="window is -1: it must be at least 0"):
        fuse([], [], [], window=-1)
