"""A node's own data, understood as the server's plan has them."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from fedsparsify_jax.data import Dataset, hold_out, with_rows
from fedsparsify_jax.errors import InputError, counted, shown
from fedsparsify_jax.federate.plan import Plan
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import from_json
from fedsparsify_jax.runner.programs.federation import checked_model, load, partition

DATA = ("dataset", "data_dir", "label_column", "input_columns", "train_subset")
"""Options by which a node names its own data; all others are the server's."""
DIVIDED = ("client_column", "split_by", "partition")
"""Options that divide a data set among clients, which has happened to a node's own."""


def loaded(
    number: int, own: Mapping[str, Any], plan: Plan
) -> tuple[TrainConfig, Dataset, Model]:
    """Returns the options, a client's own examples, and the model.

    Args:
      number: of the client.
      own: options of `DATA`, of data that are all this client's; empty for a trial,
        where every node takes its part of the server's data set.
      plan: of the server.

    Raises:
      InputError: for data that cannot be loaded, or do not fit the server's.
    """
    config = from_json(plan.options, "the server's plan")
    if own:
        usual = {field: getattr(TrainConfig, field) for field in (*DATA, *DIVIDED)}
        config = dataclasses.replace(config, **usual | _checked(own))
        dataset = load(config)
    else:
        dataset = hold_out(load(config), config.validation_fraction, config.seed)
        parts = partition(config, dataset.train.y, dataset.owners)
        if number >= len(parts):
            raise InputError(
                f"this node is client {number}: there are {counted(len(parts), 'one')}"
                ", counted from 0"
            )
        dataset = with_rows(dataset, parts[number])
    check_fit(dataset, plan)
    dataset = dataset._replace(
        num_classes=plan.num_classes,
        normalization=plan.normalization,
        characters=plan.characters,
        words=plan.words,
    )
    model, _ = checked_model(config, dataset)
    return config, dataset, model


def _checked(own: Mapping[str, Any]) -> dict[str, Any]:
    options = schema.read(TrainConfig)
    for field in own:
        if field not in DATA:
            raise InputError(
                f"{shown(field)} is no option of a node: its own are {', '.join(DATA)}"
            )
    return {field: options[field].check(value) for field, value in own.items()}


def check_fit(dataset: Dataset, plan: Plan) -> None:
    """Refuses data of other shapes, or with other classes, than the server's.

    Raises:
      InputError: naming the difference.
    """
    x, y = np.asarray(dataset.train.x), np.asarray(dataset.train.y)
    facts = {
        "examples of shape": (tuple(x.shape[1:]), plan.shape),
        "inputs of dtype": (str(x.dtype), plan.dtype),
        "targets for": (dataset.task, plan.task),
    }
    for what, (has, wants) in facts.items():
        if has != wants:
            raise InputError(f"this node has {what} {has}, the server's are {wants}")
    if plan.task == "classification" and y.size and int(y.max()) >= plan.num_classes:
        raise InputError(
            f"this node has the class {int(y.max())}, the server's model has "
            f"{plan.num_classes} classes, from 0"
        )
