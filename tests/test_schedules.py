"""Schedules against a formula written in plain Python."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsparsify_jax import schedules


def oracle(t, final, end, begin=1, initial=0.0, exponent=3.0, every=1):
    """s_t of the paper for t <= end; the authors purge after round ``begin``."""
    if t <= begin:
        return 0.0
    progress = (every * (t // every) - begin) / (end - begin)
    value = final + (initial - final) * (1 - progress) ** exponent
    return min(max(value, 0.0), 1.0)


@pytest.mark.parametrize("every", [1, 2, 7])
@pytest.mark.parametrize("exponent", [1.0, 3.0, 12.0])
@pytest.mark.parametrize(("initial", "begin"), [(0.0, 1), (0.2, 5)])
def test_polynomial_is_the_papers_formula(every, exponent, initial, begin):
    schedule = schedules.polynomial(
        0.95, end=40, begin=begin, initial=initial, exponent=exponent, every=every
    )
    traced = jax.jit(schedule)
    for t in range(1, 41):
        expected = oracle(t, 0.95, 40, begin, initial, exponent, every)
        assert schedule(t) == pytest.approx(expected, abs=1e-12)
        assert isinstance(schedule(t), float)
        assert float(traced(t)) == pytest.approx(expected, abs=2e-6)


def test_published_values_at_95_percent():
    # reference/fedsparsify.md, section 2.1. It prints .830 at t = 100, where the
    # formula gives .8295: its own rounding.
    schedule = schedules.polynomial(0.95, end=200)
    printed = {2: 0.014, 10: 0.123, 20: 0.247, 50: 0.543, 150: 0.935, 200: 0.95}
    for t, value in printed.items():
        assert schedule(t) == pytest.approx(value, abs=5.1e-4)
    assert schedule(100) == pytest.approx(0.82945, abs=5e-6)


def test_first_purge_is_in_round_two_and_the_last_round_reaches_the_target():
    schedule = schedules.polynomial(0.9, end=50)
    assert schedule(1) == 0.0
    assert schedule(2) > 0.0
    assert schedule(50) == 0.9
    assert schedule(60) == 0.9


def test_a_run_of_one_round_reaches_the_target():
    assert schedules.polynomial(0.9, end=1)(1) == 0.9


def test_frequency_holds_the_target_between_purges_and_after_the_end():
    schedule = schedules.polynomial(0.9, end=10, every=4)
    values = [schedule(t) for t in range(1, 20)]
    assert values[3] == values[4] == values[6]  # t = 4, 5, 7
    assert values[7] == values[-1] < 0.9  # 8 is the last multiple of 4


@pytest.mark.parametrize(
    "build",
    [
        lambda s: schedules.polynomial(s, end=20),
        lambda s: schedules.linear(s, end=20),
        lambda s: schedules.cosine(s, end=20),
        lambda s: schedules.one_shot(s, at=7),
        lambda s: schedules.multiplicative(0.3, final=s),
        schedules.constant,
    ],
)
@given(t=st.integers(0, 40), sparsity=st.floats(0, 0.999999))
def test_every_schedule_stays_in_range_grows_and_agrees_when_traced(build, t, sparsity):
    schedule = build(sparsity)
    now, later = schedule(t), schedule(t + 1)
    assert 0.0 <= now <= later < 1.0
    assert now <= sparsity + 1e-12
    traced = build(jnp.float32(sparsity))(jnp.int32(t))
    assert traced.dtype == jnp.float32
    assert 0.0 <= float(traced) < 1.0
    assert float(traced) == pytest.approx(now, abs=1e-5)


def test_linear_and_cosine_pass_through_known_points():
    linear = schedules.linear(0.8, end=9, initial=0.4)
    assert [linear(t) for t in (1, 5, 9)] == pytest.approx([0.0, 0.6, 0.8])
    cosine = schedules.cosine(0.8, end=9)
    quarter = 0.4 * (1 - math.cos(math.pi / 4))
    assert [cosine(t) for t in (1, 3, 5, 9)] == pytest.approx([0, quarter, 0.4, 0.8])


def test_one_shot_jumps():
    schedule = schedules.one_shot(0.9, at=10)
    assert [schedule(t) for t in (1, 9, 10, 99)] == [0.0, 0.0, 0.9, 0.9]


def test_multiplicative_removes_a_share_of_what_remains():
    schedule = schedules.multiplicative(0.08, every=2, final=0.5)
    remaining = 1.0
    for t in range(1, 30):
        if t > 1 and t % 2 == 0:  # as in the authors' code
            remaining = max(remaining * 0.92, 0.5)
        assert schedule(t) == pytest.approx(1 - remaining)


def test_numbers_of_a_schedule_may_be_traced_and_vmapped():
    def final_round(final, exponent):
        return schedules.polynomial(final, end=10, exponent=exponent)(5)

    finals, exponents = jnp.array([0.5, 0.9]), jnp.array([1.0, 6.0])
    got = jax.vmap(final_round)(finals, exponents)
    expected = [oracle(5, 0.5, 10, exponent=1.0), oracle(5, 0.9, 10, exponent=6.0)]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("bad", [-0.1, 1.0, 1.5, float("nan")])
def test_a_concrete_sparsity_out_of_range_is_refused(bad):
    for build in (
        schedules.constant,
        lambda s: schedules.polynomial(s, end=3),
        lambda s: schedules.polynomial(0.5, end=3, initial=s),
        lambda s: schedules.cosine(s, end=3),
        lambda s: schedules.one_shot(s, at=3),
        schedules.multiplicative,
    ):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            build(bad)


def test_a_frequency_below_one_is_refused():
    with pytest.raises(ValueError, match="every is 0"):
        schedules.polynomial(0.5, end=3, every=0)
    with pytest.raises(ValueError, match="every is 0"):
        schedules.multiplicative(0.5, every=0)
