"""Members, others, and the halves of shadow models."""

import numpy as np
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.audit import members
from fedsparsify_jax.types import Examples


def pool(inside=6, outside=4):
    """Members are the even rows of the training set; an example is its own number."""
    train = Examples(np.arange(100)[:, None], np.arange(100))
    test = Examples(1000 + np.arange(outside)[:, None], 1000 + np.arange(outside))
    return members.Pool(train, 2 * np.arange(inside), test)


def test_examples_are_taken_from_both_sides():
    examples = pool().take(np.array([0, 5, 6, 9]))
    assert examples.y.tolist() == [0, 10, 1000, 1003]
    assert examples.x[:, 0].tolist() == examples.y.tolist()


@pytest.mark.parametrize(("examples", "expected"), [(100, 4), (6, 3), (7, 3)])
def test_as_many_members_as_others_are_asked_about(examples, expected):
    rows = members.asked(pool(), examples, seed=0)
    assert (rows < 6).sum() == (rows >= 6).sum() == expected
    assert len(set(rows.tolist())) == len(rows) and (np.diff(rows) > 0).all()


def test_the_seed_says_who_is_asked_about():
    drawn = [members.asked(pool(50, 50), 20, seed).tolist() for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_one_member_is_too_few():
    with pytest.raises(InputError, match="1 member and 4 others: an attack needs two"):
        members.asked(pool(inside=1), 100, seed=0)


def test_every_example_is_in_half_of_the_shadow_models():
    inside = np.zeros((8, 11), int)
    for shadow in range(8):
        inside[shadow, members.half(11, shadow, seed=3)] = 1
    assert inside.sum(axis=0).tolist() == [4] * 11
    assert inside.sum(axis=1).tolist() == [5, 6] * 4
    assert len({tuple(row) for row in inside.tolist()}) == 8


def test_more_shadow_models_leave_the_first_ones_as_they_are():
    seeds = [members.shadow_seed(shadow, 0) for shadow in range(100)]
    assert len(set(seeds)) == 100 and min(seeds) >= 0 and max(seeds) < 2**31
    other = [members.shadow_seed(shadow, 1) for shadow in range(100)]
    assert not set(seeds) & set(other)


def test_there_are_never_more_others_than_members():
    rows = members.others_like(5, 100, seed=0)
    assert len(set(rows.tolist())) == 5 and rows.max() < 100
