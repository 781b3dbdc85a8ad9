"""The noise of a private run and the epsilon that it spends, from the run's options.

Units are clients, whose updates the server clips (`engine.wrappers.private`), or
examples, whose gradients clients clip (`privacy.private_steps`).

Epsilon after round t is a function of the options and of t alone, so a run that goes on
goes on with its accountant as well.
"""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

from fedsparsify_jax.engine.sampling import cohort_size
from fedsparsify_jax.engine.wrappers.private import Privacy, needs_parameters_alone
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.privacy import accounting
from fedsparsify_jax.privacy.accounting import Sampling
from fedsparsify_jax.privacy.private_steps import ExamplePrivacy
from fedsparsify_jax.runner.options.rules import flag, in_options
from fedsparsify_jax.types import Variables

_FIELDS = ("dp_clip", "dp_noise", "epsilon", "delta")
# The same numbers for every trial of a sweep, and every start of a run.
_noise_multiplier = functools.cache(accounting.noise_multiplier)
_epsilons = functools.lru_cache(maxsize=1024)(accounting.epsilons)


def check(options: Mapping[str, Any]) -> None:
    """Refuses options of privacy that promise nothing, or contradict one another.

    Args:
      options: all options of a run, resolved. Unless the data count the clients,
        promises that no noise keeps are refused as well.

    Raises:
      InputError: naming the options.
    """
    if not any(options[field] is not None for field in _FIELDS):
        if options["dp_unit"] == "example":
            raise InputError(
                "--dp-unit example needs --dp-clip, --delta, and --dp-noise or "
                "--epsilon: it says what they hide"
            )
        return
    for field in ("dp_clip", "delta"):
        if options[field] is None:
            others = [f for f in _FIELDS if options[f] is not None]
            raise InputError(
                f"{flag(others[0])} needs {flag(field)}: {_MEANINGS[field]}"
            )
    if (options["dp_noise"] is None) == (options["epsilon"] is None):
        raise InputError(
            "--dp-clip needs one of --dp-noise Z and --epsilon E, from which the other "
            "follows"
        )
    if options["loss"] == "contrastive":
        raise InputError(
            "--dp-clip does not go with --loss contrastive, whose classifier is fitted "
            "to clients' examples without noise in the end"
        )
    accounting.needs_dp_accounting()
    if options["num_clients"] is not None or of_examples(options):
        spent(options)


_MEANINGS = {
    "dp_clip": "the norm that clients' updates, or examples' gradients, are clipped to",
    "delta": "the probability, below 1 / clients or 1 / examples, that epsilon does "
    "not hold",
}


def check_training(
    options: Mapping[str, Any], variables: Callable[[], Variables], examples: int
) -> None:
    """Refuses models and data that the promise of a run is not for.

    Args:
      options: of a run.
      variables: returns those of the model, or their shapes.
      examples: N, of all clients.

    Raises:
      InputError: for collections beside the parameters, and, if examples are hidden,
        for a delta of 1 / N or more.
    """
    if not wanted(options):
        return
    if of_examples(options) and not options["delta"] * examples < 1:
        raise InputError(
            f"--delta is {options['delta']}: it must be below 1 / {examples:,}, for so "
            "many are the examples, or one of them may be published"
        )
    needs_parameters_alone(variables())


def of_examples(options: Mapping[str, Any]) -> bool:
    """Returns whether a run is private, and what it hides is an example."""
    return wanted(options) and options["dp_unit"] == "example"


def passes(options: Mapping[str, Any]) -> int:
    """Returns how often a client's training may use an example in one round.

    >>> passes({"local_epochs": 1.5, "fine_tune_epochs": None})
    2
    """
    return math.ceil(options["local_epochs"]) + (options["fine_tune_epochs"] or 0)


def wanted(options: Mapping[str, Any]) -> bool:
    """Returns whether the rounds of a run are differentially private."""
    return options.get("dp_clip") is not None


def sampling(options: Mapping[str, Any]) -> Sampling:
    """Returns how the clients or examples of a round are drawn, for the accountant.

    Args:
      options: of a run; ``num_clients`` is its number. That of the examples is left to
        `check_training`.
    """
    if of_examples(options):
        return accounting.shuffled(passes(options), examples=1)
    clients, share = options["num_clients"], options["participation"]
    if options["cohort_sampling"] == "poisson":
        return accounting.poisson(share, clients)
    return accounting.fixed(cohort_size(clients, share), clients)


def noise_multiplier(options: Mapping[str, Any]) -> Any:
    """Returns z: the option's, which may be traced, or the one that epsilon takes.

    Raises:
      InputError: for an epsilon that no noise reaches.
    """
    if options["dp_noise"] is not None:
        return options["dp_noise"]
    try:
        return _noise_multiplier(
            options["epsilon"],
            sampling(options),
            rounds=options["rounds"],
            delta=options["delta"],
        )
    except InputError as error:
        raise InputError(in_options(str(error))) from None


def mechanism(options: Mapping[str, Any]) -> Privacy | ExamplePrivacy | None:
    """Returns the engine's option; None for a run without privacy.

    Args:
      options: of a run; ``dp_clip`` and ``dp_noise`` may be traced.

    Raises:
      InputError: for an epsilon that no noise reaches.
    """
    if not wanted(options):
        return None
    if of_examples(options):
        return ExamplePrivacy(
            clip_norm=options["dp_clip"],
            noise_multiplier=noise_multiplier(options),
            passes=passes(options),
        )
    return Privacy(
        clip_norm=options["dp_clip"],
        noise_multiplier=noise_multiplier(options),
        denominator=_expected(sampling(options)),
    )


def _expected(drawn: Sampling) -> float:
    """Returns the clients of a round on average: what the sum is divided by."""
    if drawn.probability is None:
        return float(drawn.size or 0)
    return drawn.probability * drawn.population


def spent(options: Mapping[str, Any]) -> tuple[float, ...]:
    """Returns epsilon after every round of a run; nothing for one without privacy.

    Raises:
      InputError: for an epsilon that no noise reaches, or a delta of 1 / clients.
    """
    if not wanted(options):
        return ()
    z, drawn = noise_multiplier(options), sampling(options)
    try:
        after = _epsilons(z, drawn, rounds=options["rounds"], delta=options["delta"])
    except InputError as error:
        raise InputError(in_options(str(error))) from None
    return tuple(after.tolist())


def described(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what the summary of a run promises; nothing for one without privacy."""
    if not wanted(options):
        return {}
    drawn = sampling(options)
    promise: dict[str, Any] = {
        "delta": options["delta"],
        "noise_multiplier": noise_multiplier(options),
        "clip_norm": options["dp_clip"],
        "neighbours": drawn.neighbours,
    }
    if of_examples(options):
        promise |= {"unit": "example", "passes": drawn.passes}
    else:
        promise |= {"clients": drawn.population, "cohort": _expected(drawn)}
    return {"epsilon": spent(options)[-1], "privacy": promise}
