"""Algorithms by name, and which options of the command line each of them takes.

An option belongs to an algorithm if its builder has a keyword of that name, so a new
algorithm is one line in `_BUILDERS` and an option for every keyword that is new.
"""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedsparsify_jax import algorithms, masks, schedules
from fedsparsify_jax.aggregation.merges import withstanding
from fedsparsify_jax.client_map import ClientMap
from fedsparsify_jax.engine.wrappers import attacks
from fedsparsify_jax.engine.wrappers.attacks import Attack
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options import fault_options
from fedsparsify_jax.training.compact.wrapper import Form
from fedsparsify_jax.training.losses import Task
from fedsparsify_jax.types import FederatedAlgorithm, Prunable, Schedule

_BUILDERS: dict[str, Callable[..., FederatedAlgorithm]] = {
    "fedavg": algorithms.fedavg,
    "fedprox": algorithms.fedprox,
    "fedopt": algorithms.fedopt,
    "fedsparsify-global": algorithms.fedsparsify_global,
    "fedsparsify-local": algorithms.fedsparsify_local,
    "fedsparsify-plus": algorithms.fedsparsify_plus,
    "random-pruning": algorithms.random_pruning,
    "one-shot": algorithms.one_shot,
    "snip": algorithms.snip,
    "grasp": algorithms.grasp,
    "synflow": algorithms.synflow,
    "prunefl": algorithms.prunefl,
    "feddst": algorithms.feddst,
}

ALGORITHMS = tuple(_BUILDERS)

# Options that are called otherwise in the builders.
_KEYWORDS = {"frequency": "every", "prune_at": "at", "replace_share": "alpha"}

# Options that all algorithms of the kind take; given or not, they have a value.
_SHARED = (
    "final_sparsity",
    "rounds",
    "exponent",
    "frequency",
    "begin",
    "initial_sparsity",
)
# Options that are left to the algorithm unless they are given.
_OWN = (
    "fine_tune_rounds",
    "fine_tune_epochs",
    "scope",
    "vote_rule",
    "merge",
    "mu",
    "anchor",
    "server_optimizer",
    "server_learning_rate",
    "prune_at",
    "source",
    "freeze_zero_initialized",
    "variant",
    "interval",
    "replace_share",
    "allocation",
)


@functools.cache
def _keywords(algorithm: str) -> frozenset[str]:
    return frozenset(inspect.signature(_BUILDERS[algorithm]).parameters)


def takes(algorithm: str, field: str) -> bool:
    """Whether an algorithm has an option.

    >>> takes("fedprox", "mu"), takes("fedavg", "mu")
    (True, False)
    """
    return _KEYWORDS.get(field, field) in _keywords(algorithm)


def takers(field: str) -> list[str]:
    """The algorithms that have an option.

    >>> takers("anchor")
    ['fedprox']
    """
    return [name for name in _BUILDERS if takes(name, field)]


def unused(options: Mapping[str, Any], untouched: Mapping[str, Any]) -> list[str]:
    """The algorithms' options that were changed and that this algorithm does not take.

    Args:
      options: all options of a run.
      untouched: what they are when nobody sets them.
    """
    algorithm = options["algorithm"]
    return [
        field
        for field in (*_SHARED, *_OWN)
        if options[field] != untouched[field]
        and field != "rounds"
        and not takes(algorithm, field)
    ]


def _schedule(options: Mapping[str, Any]) -> Schedule | None:
    """The schedule, unless it is the polynomial one that builders make themselves."""
    final, end = options["final_sparsity"], options["rounds"]
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


def prunable(options: Mapping[str, Any]) -> Prunable | None:
    """Which leaves may be pruned; None for all parameters."""
    return masks.kernels_only if options["prunable"] == "kernels" else None


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


def build_algorithm(
    options: Mapping[str, Any],
    model: Model,
    task: Task,
    client_map: ClientMap,
    compact_form: Form | None = None,
    num_classes: int | None = None,
) -> FederatedAlgorithm:
    """The algorithm that the options of a run describe.

    Args:
      options: all options, resolved.
      model: what it trains.
      task: what for.
      client_map: how the clients of a round are run.
      compact_form: what clients train on where it fits, see `sparse`.
      num_classes: of a classification task, which flipped labels need.

    Raises:
      ValueError: from the builder, for values that do not go together.
    """
    algorithm = options["algorithm"]
    chosen: dict[str, Any] = {
        "learning_rate": options["learning_rate"],
        "momentum": options["momentum"],
        "nesterov": options["nesterov"] == "on",
        "optimizer_state": options["optimizer_state"],
        "num_clients": options["num_clients"],
        "local_epochs": options["local_epochs"],
        "batch_size": options["batch_size"],
        "participation": options["participation"],
        "loss_fn": task.loss_fn,
        "client_map": client_map,
        "compact_form": compact_form,
        "clip_norm": options["clip_norm"],
        "attack": _attack(options, num_classes),
        "server_ema": options["server_ema"],
    }
    if options["faults"] is not None:
        chosen["faults"] = fault_options.parse(options["faults"])
    for field in (*_SHARED, *_OWN):
        value = options[field]
        if value is not None and takes(algorithm, field):
            if isinstance(value, str) and value in ("on", "off"):
                value = value == "on"
            chosen[_KEYWORDS.get(field, field)] = value
    if options["assumed_attackers"] is not None and takes(algorithm, "merge"):
        assumed = options["assumed_attackers"]
        chosen["merge"] = withstanding(options["merge"], assumed)
    if algorithm == "prunefl" and (
        options["pin_sparsity"] == "off" or options["variant"] == "authors"
    ):
        del chosen["final_sparsity"]  # its sparsity is an outcome
    if takes(algorithm, "schedule"):
        chosen["schedule"] = _schedule(options)
        if chosen["schedule"] is not None:  # which ends before those rounds already
            chosen.pop("fine_tune_rounds", None)
    if takes(algorithm, "prunable"):
        chosen["prunable"] = prunable(options)
    return _BUILDERS[algorithm](model.apply, **chosen)
