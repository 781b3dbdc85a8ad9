"""Epsilons against `dp_accounting` called directly, and what has none."""

import math
import sys

import numpy as np
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.privacy import accounting
from fedsparsify_jax.privacy.accounting import (
    dp_sgd,
    epsilon,
    epsilons,
    fixed,
    poisson,
    shuffled,
)

DELTA = 1e-5
RUN = {"rounds": 100, "delta": DELTA}


@pytest.fixture
def dp():
    package = pytest.importorskip("dp_accounting")
    pytest.importorskip("dp_accounting.rdp")
    pytest.importorskip("dp_accounting.pld")
    return package


def test_epsilons_of_poisson_cohorts_are_the_reference_values(dp):
    """z = 1, q = .05, T = 100, delta = 1e-5, by dp_accounting 0.6."""
    assert epsilon(1.0, poisson(0.05, 1000), **RUN) == pytest.approx(4.0389, abs=1e-4)
    tight = epsilon(1.0, poisson(0.05, 1000), accountant="pld", **RUN)
    assert tight == pytest.approx(3.5021, abs=1e-3)
    everybody = epsilon(1.0, poisson(1.0, 1000), **RUN)
    assert everybody == pytest.approx(96.116, abs=1e-3)
    needed = accounting.noise_multiplier(2.0, poisson(0.05, 1000), **RUN)
    assert needed == pytest.approx(1.4445, abs=1e-4)


def test_a_fixed_cohort_needs_twice_the_noise_of_its_event(dp):
    """50 of 1000: 6.4666 is of noise as large as what a replacement does, 2 C."""
    assert epsilon(2.0, fixed(50, 1000), **RUN) == pytest.approx(6.4666, abs=1e-4)
    assert epsilon(1.0, fixed(50, 1000), **RUN) == pytest.approx(34.2635, abs=1e-4)


def test_a_replaced_client_is_hidden_as_well_as_the_gaussian_mechanism_allows(dp):
    """All N in one round: the exact epsilon of normal noise z C on a sum that 2 C move.

    An upper bound may not be below it; with z in place of z / 2 it would be.
    """
    exact = dp.get_epsilon_gaussian(1.0 / 2, DELTA)
    bound = epsilon(1.0, fixed(1000, 1000), rounds=1, delta=DELTA)
    assert exact <= bound < 1.2 * exact
    rdp = dp.rdp.RdpAccountant(neighboring_relation=dp.NeighboringRelation.REPLACE_ONE)
    event = dp.SampledWithoutReplacementDpEvent(1000, 1000, dp.GaussianDpEvent(1.0))
    assert rdp.compose(event).get_epsilon(DELTA) < exact


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
@pytest.mark.parametrize("q", [0.1, 1.0])
def test_epsilon_is_that_of_dp_accounting_called_directly(dp, q, accountant):
    direct = {"rdp": dp.rdp.RdpAccountant, "pld": dp.pld.PLDAccountant}[accountant]()
    event = dp.PoissonSampledDpEvent(q, dp.GaussianDpEvent(0.8))
    direct.compose(dp.SelfComposedDpEvent(event, 7))
    result = epsilon(0.8, poisson(q, 100), rounds=7, delta=1e-3, accountant=accountant)
    assert result == direct.get_epsilon(1e-3)


@pytest.mark.parametrize("sampling", [poisson(0.2, 50), fixed(10, 50), dp_sgd(8, 40)])
def test_epsilon_after_every_round_is_that_of_a_run_of_so_many(dp, sampling):
    after = epsilons(1.1, sampling, rounds=12, delta=1e-3)
    assert len(after) == 12
    assert (np.diff(after) > 0).all()
    for rounds in (1, 5, 12):
        single = epsilon(1.1, sampling, rounds=rounds, delta=1e-3)
        assert after[rounds - 1] == pytest.approx(single, rel=1e-9)


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [(poisson(0.2, 50), 0.5), (poisson(0.2, 50), 8.0), (fixed(50, 50), 2.0)],
)
def test_the_noise_that_is_asked_for_keeps_the_promise_and_is_not_more(
    dp, sampling, expected
):
    z = accounting.noise_multiplier(expected, sampling, rounds=20, delta=1e-3)
    assert epsilon(z, sampling, rounds=20, delta=1e-3) <= expected
    assert epsilon(z - 1e-5, sampling, rounds=20, delta=1e-3) > expected


def test_dp_sgd_is_a_poisson_sample_of_examples(dp):
    assert dp_sgd(32, 1000) == poisson(0.032, 1000)
    assert dp_sgd(32, 1000).neighbours == "add or remove one"
    assert fixed(32, 1000).neighbours == "replace one"


@pytest.mark.parametrize("accountant", ["rdp", "pld"])
def test_passes_are_gaussian_mechanisms_without_amplification(dp, accountant):
    """3 passes in each of 5 rounds, of neighbours that differ by a zeroed example."""
    relation = dp.NeighboringRelation.REPLACE_SPECIAL
    exact = epsilon(4.0, shuffled(3, 100), rounds=5, delta=1e-3, accountant=accountant)
    accountants = {"rdp": dp.rdp.RdpAccountant, "pld": dp.pld.PLDAccountant}
    direct = accountants[accountant](neighboring_relation=relation)
    direct.compose(dp.SelfComposedDpEvent(dp.GaussianDpEvent(4.0), 15))
    above = {"rdp": 1.2, "pld": 1 + 1e-6}[accountant]
    assert exact * (1 - 1e-9) <= direct.get_epsilon(1e-3) <= above * exact
    assert exact == dp.get_epsilon_gaussian(4.0 / math.sqrt(15), 1e-3)


def test_noise_for_passes_keeps_the_promise_and_is_not_more(dp):
    sampling, run = shuffled(2, 100), {"rounds": 10, "delta": 1e-3}
    z = accounting.noise_multiplier(1.5, sampling, **run)
    assert epsilon(z, sampling, **run) <= 1.5 < epsilon(z * (1 - 1e-6), sampling, **run)
    after = epsilons(z, sampling, **run)
    assert after[-1] == epsilon(z, sampling, **run) and (np.diff(after) > 0).all()
    assert after[4] == epsilon(z, sampling, rounds=5, delta=1e-3)
    assert sampling.neighbours == "zero out one"


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: poisson(0.0, 10), "probability is 0.0: it must be above 0"),
        (lambda: poisson(1.1, 10), "probability is 1.1"),
        (lambda: poisson(math.nan, 10), "probability is nan"),
        (lambda: poisson(0.5, 0), "population is 0"),
        (lambda: fixed(11, 10), "size is 11: there are 10"),
        (lambda: fixed(0, 10), "size is 0"),
        (lambda: fixed(2.5, 10), "size is 2.5"),
        (lambda: dp_sgd(11, 10), "size is 11"),
        (lambda: shuffled(0, 10), "passes is 0"),
        (lambda: shuffled(1, 0), "examples is 0"),
    ],
)
def test_samples_that_cannot_be_drawn_are_refused(draw, message):
    with pytest.raises(InputError, match=message):
        draw()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delta": 0.0}, "delta is 0.0: it must be above 0"),
        ({"delta": -1e-5}, "delta is -1e-05"),
        ({"delta": math.nan}, "delta is nan"),
        ({"delta": 0.001}, "below 1 / N = 0.001"),
        ({"rounds": 0}, "rounds is 0"),
        ({"noise": 0.0}, "without noise there is no epsilon"),
        ({"noise": math.inf}, "finite"),
        ({"accountant": "moments"}, "it must be rdp or pld"),
        ({"sampling": fixed(5, 1000), "accountant": "pld"}, "pld has no event"),
    ],
)
def test_what_has_no_epsilon_is_refused(options, message):
    plain = {"noise": 1.0, "sampling": poisson(0.05, 1000), **RUN}
    noise, sampling, *_ = (changed := plain | options).values()
    rest = {k: v for k, v in changed.items() if k not in ("noise", "sampling")}
    with pytest.raises(InputError, match=message):
        epsilon(noise, sampling, **rest)


@pytest.mark.parametrize(
    ("promise", "message"),
    [
        (0.0, "above 0"),
        (math.nan, "above 0"),
        (math.inf, "finite"),
        (1e-9, "needs noise of more than 1,000 times"),
        (1e9, "hides nobody"),
    ],
)
def test_promises_that_noise_does_not_keep_are_refused(dp, promise, message):
    with pytest.raises(InputError, match=message):
        accounting.noise_multiplier(promise, poisson(1.0, 1000), **RUN)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(InputError, match=r"fedsparsify_jax\[privacy\]"):
        epsilon(1.0, poisson(0.05, 1000), **RUN)
