"""Work a step ahead: order, errors, an end without leftovers."""

import threading

import pytest

from fedsparsify_jax.runner.programs.sources import prefetching


def prefetch_threads():
    return [one for one in threading.enumerate() if one.name.startswith("prefetch")]


def test_the_next_step_is_made_before_it_is_asked_for():
    made, begun = [], threading.Event()

    def make(t):
        made.append(t)
        if t == 6:
            begun.set()
        return threading.current_thread().name, 10 * t

    with prefetching(make) as ahead:
        name, value = ahead(5, 6)
        assert name.startswith("prefetch") and value == 50
        assert begun.wait(10), "nothing was begun"
        assert ahead(6, None)[1] == 60
    assert made == [5, 6]  # none twice, and none that nobody spoke of


def test_errors_surface_as_themselves_when_their_step_is_asked_for():
    def make(t):
        if t == 2:
            raise OSError("the disk is gone")
        return t

    with prefetching(make) as ahead:
        assert ahead(1, 2) == 1
        with pytest.raises(OSError, match="the disk is gone"):
            ahead(2, 3)
        assert ahead(3, None) == 3


def test_a_step_that_was_not_foretold_is_made_at_once():
    with prefetching(lambda t: t) as ahead:
        steps = [(1, 2), (7, 8), (3, 4), (4, None)]
        assert [ahead(t, then) for t, then in steps] == [1, 7, 3, 4]


def test_an_interrupt_leaves_no_thread_and_makes_no_more():
    made = []
    with pytest.raises(KeyboardInterrupt), prefetching(made.append) as ahead:
        ahead(1, 2)
        raise KeyboardInterrupt
    assert prefetch_threads() == []
    assert made in ([1], [1, 2])
