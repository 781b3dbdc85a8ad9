"""Options of the command line as keywords of the algorithms' builders.

An option with a `schema.Keyword` goes to every algorithm whose builder has it. A new
algorithm is a row of `algorithms.registry`, and an option for every new keyword.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fedsparsify_jax import masks, schedules
from fedsparsify_jax.aggregation.merges import withstanding
from fedsparsify_jax.algorithms.registry import ALGORITHMS
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.engine.wrappers import attacks
from fedsparsify_jax.engine.wrappers.attacks import Attack
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options import grammars, privacy
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.schema import read
from fedsparsify_jax.training.compact.wrapper import Form
from fedsparsify_jax.training.losses import Task
from fedsparsify_jax.types import FederatedAlgorithm, Prunable, Schedule

KEYWORDS = {
    field: option.keyword
    for field, option in read(TrainConfig).items()
    if option.keyword is not None
}
"""Options that are keywords of builders, with the builders' names for them."""


def takes(algorithm: str, field: str) -> bool:
    """Returns whether an algorithm has an option.

    >>> takes("fedprox", "mu"), takes("fedavg", "mu")
    (True, False)
    """
    return KEYWORDS.get(field) in ALGORITHMS[algorithm].keywords


def takers(field: str) -> list[str]:
    """Returns the algorithms that have an option.

    >>> takers("anchor")
    ['fedprox']
    """
    return [name for name in ALGORITHMS if takes(name, field)]


def unused(options: Mapping[str, Any], untouched: Mapping[str, Any]) -> list[str]:
    """Returns the options that were changed and that the algorithm does not take.

    Args:
      options: all options of a run.
      untouched: what they are when nobody sets them.
    """
    return [
        field
        for field in KEYWORDS
        if options[field] != untouched[field]
        and field != "rounds"  # every run has those
        and not takes(options["algorithm"], field)
    ]


def schedule(options: Mapping[str, Any]) -> Schedule | None:
    """Returns the schedule; None for the polynomial one, which builders make."""
    final, end = _last_target(options), options["rounds"]
    end -= options["fine_tune_rounds"] or 0
    start = {"begin": options["begin"], "initial": options["initial_sparsity"]}
    match options["schedule"]:
        case "linear":
            return schedules.linear(final, end=end, **start)
        case "cosine":
            return schedules.cosine(final, end=end, **start)
        case "multiplicative":
            return schedules.multiplicative(
                options["purge_share"],
                begin=options["begin"],
                every=options["frequency"],
                final=final,
            )
    return None


def _last_target(options: Mapping[str, Any]) -> float:
    """Returns the sparsity that the schedule ends at."""
    final: float = options["final_sparsity"]
    if not takes(options["algorithm"], "levels"):
        return final
    return _levels(options)[-1]


def _levels(options: Mapping[str, Any]) -> tuple[float, ...]:
    """Returns sparsities that are trained at once: the option's, or the builder's."""
    if options["levels"] is not None:
        return grammars.levels(options["levels"])
    parameters = ALGORITHMS[options["algorithm"]].parameters
    default: tuple[float, ...] = parameters["levels"].default
    return default


def expected_sparsity(options: Mapping[str, Any]) -> Callable[[int], float] | None:
    """Returns the sparsity after every round, as far as the options say it."""
    row = ALGORITHMS[options["algorithm"]]
    if "schedule" not in row.keywords:
        return None
    planned = schedule(options)
    if planned is None:
        planned = schedules.polynomial(
            _last_target(options),
            end=options["rounds"] - (options["fine_tune_rounds"] or 0),
            exponent=options["exponent"],
            every=options["frequency"],
            begin=options["begin"],
            initial=options["initial_sparsity"],
        )
    return lambda t: float(np.asarray(planned(t)))


def prunable(options: Mapping[str, Any]) -> Prunable | None:
    """Returns the rule for the leaves that may be pruned; None for all parameters.

    Args:
      options: of a run; ``spare`` has the paths of layers, if it has any.
    """
    rule = masks.kernels_only if options["prunable"] == "kernels" else None
    spared = options["spare"] or ()
    return masks.sparing(*spared, prunable=rule) if spared else rule


def _attack(options: Mapping[str, Any], num_classes: int | None) -> Attack | None:
    if options["attack"] is None:
        return None
    return attacks.named(
        options["attack"],
        options["attackers"],
        scale=options["attack_scale"],
        num_classes=num_classes,
        prunable=prunable(options),
    )


def _is_outcome(options: Mapping[str, Any]) -> bool:
    """Returns whether the algorithm is to find its sparsity, as some can."""
    sparsity = ALGORITHMS[options["algorithm"]].parameters.get("final_sparsity")
    if sparsity is None or sparsity.default is not None:
        return False
    return options["pin_sparsity"] == "off"


def _plain(value: Any) -> Any:
    """Returns a switch as a bool, and other values as they are."""
    return value == "on" if isinstance(value, str) and value in ("on", "off") else value


def build_algorithm(
    options: Mapping[str, Any],
    model: Model,
    task: Task,
    client_map: ClientMap,
    compact_form: Form | None = None,
    num_classes: int | None = None,
) -> FederatedAlgorithm:
    """Returns the algorithm that the options of a run describe.

    Args:
      options: all options, resolved.
      model: the network.
      task: the kind of problem.
      client_map: how the clients of a round are run.
      compact_form: the form that clients train where it fits, see `training.compact`.
      num_classes: of a classification task, for flipped labels and cohorts.

    Raises:
      ValueError: from the builder, for values that do not go together.
    """
    row = ALGORITHMS[options["algorithm"]]
    if row.chain and not model.sequential:
        raise ValueError(
            f"model {options['model']!r} has no layers that feed one another in a row, "
            "as mlp, cnn and vgg16_bn have"
        )
    keywords: dict[str, Any] = {
        keyword: _plain(options[field])
        for field, keyword in KEYWORDS.items()
        if options[field] is not None and keyword in row.keywords
    }
    # What is no number or name: functions and records.
    keywords |= {
        "loss_fn": task.loss_fn,
        "client_map": client_map,
        "num_classes": num_classes,
        "compact_form": compact_form,
        "attack": _attack(options, num_classes),
        "privacy": privacy.mechanism(options),
        "keep_messages": options["measure_bytes"],
    }
    if options["widths"] is not None and "widths" in row.keywords:
        keywords["widths"] = grammars.widths(options["widths"])
    if options["faults"] is not None:
        keywords["faults"] = grammars.faults(options["faults"])
    if options["assumed_attackers"] is not None and "merge" in row.keywords:
        share = options["assumed_attackers"]
        keywords["merge"] = withstanding(options["merge"], share)
    if "parts" in row.keywords:
        keywords["parts"] = model.parts
    if "levels" in row.keywords:
        keywords["levels"] = _levels(options)
    if "prunable" in row.keywords:
        keywords["prunable"] = prunable(options)
    if "schedule" in row.keywords:
        keywords["schedule"] = schedule(options)
        if keywords["schedule"] is not None:  # which ends before those rounds already
            keywords.pop("fine_tune_rounds", None)
    if _is_outcome(options):
        del keywords["final_sparsity"]
    return row.build(model.apply, **keywords)
