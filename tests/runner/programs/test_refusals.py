"""Refusals of traced rounds: they name the algorithm, whichever part is traced."""

import jax
import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.programs.refusals import naming
from fedsparsify_jax.types import Cohorts, FederatedAlgorithm, Halves

OURS = "privacy does not go with this method: it has secrets"
LINE = "--algorithm snip: --dp-clip does not go with this method: it has secrets"


def raising(message):
    """An algorithm all of whose parts refuse their first argument."""

    def refuse(x, **_):
        raise InputError(message)

    return FederatedAlgorithm(
        init=refuse,
        step=refuse,
        cohorts=Cohorts(sample=refuse, run=refuse, setup_clients=refuse),
        halves=Halves(open=refuse, client=refuse, merge=refuse, keep=refuse),
    )


PARTS = {
    "step": lambda algorithm: algorithm.step,
    "run": lambda algorithm: algorithm.cohorts.run,
    "client": lambda algorithm: algorithm.halves.client,
    "merge": lambda algorithm: algorithm.halves.merge,
}


@pytest.mark.parametrize("part", PARTS)
def test_a_refusal_inside_of_a_program_names_the_algorithm(part):
    function = PARTS[part](naming("snip", raising(OURS)))
    with pytest.raises(InputError) as caught:
        jax.jit(function)(1.0)
    assert str(caught.value) == LINE


def test_other_errors_pass_as_they_are():
    function = naming("snip", raising("sizes of clients are negative")).step
    with pytest.raises(InputError) as caught:
        jax.jit(function)(1.0)
    assert str(caught.value) == "sizes of clients are negative"


def test_what_an_algorithm_does_not_have_stays_missing():
    plain = FederatedAlgorithm(init=max, step=lambda x, **more: (x, more))
    named = naming("snip", plain)
    assert named.cohorts is None and named.halves is None
    assert named.step(1, y=2) == (1, {"y": 2})
