"""Savings of pruning by arithmetic alone: the tables of ``fedsparsify costs``."""

import dataclasses
import json
import math
import textwrap
from typing import Annotated, Any

import jax

from fedsparsify_jax import masks, metrics, models, text_table, trees
from fedsparsify_jax.errors import counted
from fedsparsify_jax.metrics.communication import FORMULAS
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.rules import BELOW_ONE, Choice, above, at_least

# Shape of an example and number of classes where the literature has the network.
_INPUTS: dict[str, tuple[tuple[int, ...], int]] = {
    "mlp": ((28, 28), 10),
    "cnn": ((32, 32, 3), 10),
    "vgg16_bn": ((32, 32, 3), 100),
    "resnet56": ((32, 32, 3), 10),
    "brain_age_cnn": ((91, 109, 91), 1),
    "lstm": ((200,), 1),
    "lenet5": ((28, 28), 10),
    "femnist_cnn": ((28, 28), 62),
    "cnn_pfl": ((32, 32, 3), 10),
    "resnet18_gn": ((24, 24, 3), 100),
    "vit_tiny": ((32, 32, 3), 10),
    "transformer": ((200,), 2),
}

_TITLES = {
    "nonzero": "at 32 bit a non-zero, as the authors count",
    "bitmap": "at 32 bit a non-zero and 1 bit a prunable number",
    "indexed": "at 32 bit a non-zero and 32 bit for its index",
}


_COUNT = at_least(1, below=2**20)


@dataclasses.dataclass(frozen=True)
class CostsConfig:
    """Print what pruning saves in bytes and FLOPs; nothing is trained.

    Without options: the FashionMNIST federation of the paper.
    """

    model: Annotated[str, Choice(models.NAMES)] = "mlp"
    """Network, on inputs of the shape that it has in the literature."""
    rounds: Annotated[int, _COUNT] = 200
    """Federation rounds T."""
    num_clients: Annotated[int, _COUNT] = 10
    """Clients in a round."""
    final_sparsity: Annotated[tuple[float, ...], BELOW_ONE] = (
        0.8,
        0.85,
        0.9,
        0.95,
        0.99,
    )
    """Final sparsities: the columns."""
    exponent: Annotated[tuple[float, ...], above(0)] = (1.0, 3.0, 6.0, 12.0)
    """Exponents of the sparsity schedule: the rows."""
    json: bool = False
    """Print a JSON object in place of tables."""


def costs(config: CostsConfig) -> dict[str, Any]:
    """Returns communication and FLOPs by final sparsity, as JSON values.

    Communication is that of FedSparsify-Global under the polynomial schedule with
    t0 = 1 and a purge a round, see `metrics.saving`. FLOPs are those of one example,
    with every layer at the same sparsity: a global threshold leaves layers of unequal
    density, for which see `metrics.inference_flops` with the masks of a run.

    Raises:
      InputError: naming the option, its value and what is allowed.

    Example:
      >>> found = costs(CostsConfig(final_sparsity=(0.9,), exponent=(3.0,)))
      >>> found["dense_bytes"], round(found["communication"]["nonzero"][0][0], 2)
      (1892512000, 3.05)
    """
    config = dataclasses.replace(config, **schema.check(config))
    name = config.model
    input_shape, num_classes = _INPUTS.get(name, _INPUTS["mlp"])
    model = models.build(name, input_shape=input_shape, num_classes=num_classes)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    parameters = trees.size(variables)
    prunable = trees.size(masks.prunable_only(variables))

    def run(formula: str, exponent: float, sparsity: float) -> metrics.Saving:
        return metrics.saving(
            sparsity,
            config.rounds,
            config.num_clients,
            parameters,
            exponent,
            prunable=prunable,
            formula=formula,
        )

    return {
        "model": name,
        "input_shape": list(input_shape),
        "parameters": parameters,
        "prunable": prunable,
        "rounds": config.rounds,
        "num_clients": config.num_clients,
        "final_sparsity": list(config.final_sparsity),
        "exponent": list(config.exponent),
        "dense_bytes": run("nonzero", 1.0, 0.0).dense,
        "communication": {
            formula: [
                [run(formula, n, s).ratio for s in config.final_sparsity]
                for n in config.exponent
            ]
            for formula in FORMULAS
        },
        "flops": _flops(model, variables, input_shape, config.final_sparsity),
    }


def _flops(
    model: models.Model,
    variables: Any,
    input_shape: tuple[int, ...],
    sparsities: tuple[float, ...],
) -> dict[str, list[int]]:
    """Counts the FLOPs of one example, dense and then by sparsity."""
    layers = metrics.layer_flops(model.apply, variables, (1, *input_shape))
    sizes = {path: leaf.size for path, leaf in trees.named_leaves(variables)}
    densities = [
        {path: size - math.floor(s * size) for path, size in sizes.items()}
        for s in (0.0, *sparsities)
    ]
    return {
        "inference": [metrics.inference_flops(layers, kept=kept) for kept in densities],
        "training": [metrics.training_flops(layers, kept=kept) for kept in densities],
    }


def _table(title: str, head: list[str], rows: list[list[str]]) -> list[str]:
    table = text_table.aligned(["", *head], rows)
    return ["", title, textwrap.indent(table, "  ")]


def describe(found: dict[str, Any]) -> str:
    """Returns the result of `costs` as plain text."""
    columns = [f"{100 * s:g} %" for s in found["final_sparsity"]]
    lines = [
        f"{found['model']}: {found['parameters']:,} numbers, "
        f"{found['prunable']:,} of them prunable",
        f"{counted(found['rounds'], 'round')} of "
        f"{counted(found['num_clients'], 'client')}: dense "
        f"{found['dense_bytes'] / 1e6:,.1f} MB both ways",
    ]
    for formula, ratios in found["communication"].items():
        rows = [
            [f"exponent {n:g}", *(f"{ratio:.2f}" for ratio in row)]
            for n, row in zip(found["exponent"], ratios, strict=True)
        ]
        lines += _table(f"Times fewer bytes, {_TITLES[formula]}", columns, rows)
    rows = [
        [kind, *(f"{flops / 1e6:,.3f}" for flops in row)]
        for kind, row in found["flops"].items()
    ]
    title = "MFLOPs an example, every layer at the same sparsity"
    return "\n".join([*lines, *_table(title, ["dense", *columns], rows)])


def show_costs(config: CostsConfig) -> dict[str, Any]:
    """Prints what `costs` found, as text or JSON, and returns it."""
    found = costs(config)
    print(json.dumps(found, indent=2) if config.json else describe(found))
    return found
