"""The plan of a federation: what the server tells every node before the first round."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from fedsparsify_jax.data import Dataset, Normalization
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import kinds
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import to_json


class Plan(NamedTuple):
    """The options of a federation, and facts of its data that all nodes must share."""

    options: Mapping[str, Any]  # of `TrainConfig`, resolved, as JSON
    shape: tuple[int, ...]  # of an example
    dtype: str  # of the inputs
    num_classes: int
    task: str
    normalization: Normalization
    characters: str | None
    words: tuple[str, ...] | None


def plan_for(config: TrainConfig, dataset: Dataset) -> Plan:
    """Returns the plan of a federation.

    Args:
      config: resolved.
      dataset: of the server.
    """
    x = dataset.train.x
    return Plan(
        options=to_json(config),
        shape=tuple(x.shape[1:]),
        dtype=str(x.dtype),
        num_classes=dataset.num_classes,
        task=dataset.task,
        normalization=dataset.normalization,
        characters=dataset.characters,
        words=dataset.words,
    )


def envelope_of(plan: Plan) -> Envelope:
    """Returns the message that invites a node."""
    facts = plan._asdict() | {
        "normalization": dataclasses.asdict(plan.normalization),
        "format": kinds.FORMAT,
    }
    return Envelope(kinds.JOIN, facts)


def plan_of(letter: Envelope) -> Plan:
    """Returns the plan that a message has.

    Raises:
      InputError: for a message of another version, or without a part of it.
    """
    version = letter.fact("format", int)
    if version != kinds.FORMAT:
        raise InputError(
            f"the server speaks version {version} of the federation's messages, this "
            f"node version {kinds.FORMAT}: install the same fedsparsify_jax on both"
        )
    facts = dict(letter.facts)
    facts.pop("format")
    try:
        facts |= {
            "normalization": Normalization(**facts["normalization"]),
            "shape": tuple(facts["shape"]),
            "words": facts["words"] and tuple(facts["words"]),
        }
        return Plan(**facts)
    except (KeyError, TypeError) as error:
        raise InputError(f"the server's plan cannot be read: {error}") from error
