"""The algorithms, a row each, for everything outside their files.

The command line, sweeps, resuming, the table of docs/algorithms.md and the tests of all
algorithms read these rows. Name and keywords are those of the builder; a row adds what
cannot be read there.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from fedsparsify_jax import algorithms
from fedsparsify_jax.engine import EngineOptions
from fedsparsify_jax.types import FederatedAlgorithm


@dataclasses.dataclass(frozen=True)
class Row:
    """One algorithm.

    Attributes:
      build: its builder.
      defaults: keywords that it sets otherwise than the data set does.
      reads_examples: whether it reads the clients' examples itself, not only through
        the model.
      chain: whether it takes only networks whose layers feed one another in a row.
    """

    build: Callable[..., FederatedAlgorithm]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    reads_examples: bool = False
    chain: bool = False

    @property
    def name(self) -> str:
        """Returns its name on the command line.

        >>> Row(algorithms.one_shot).name
        'one-shot'
        """
        return self.build.__name__.replace("_", "-")

    @functools.cached_property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Keywords of the builder alone, without those of the engine."""
        every = inspect.signature(self.build).parameters.values()
        return {p.name: p for p in every if p.kind is p.KEYWORD_ONLY}

    @functools.cached_property
    def keywords(self) -> frozenset[str]:
        """Returns every keyword that the builder takes."""
        return frozenset([*self.parameters, *EngineOptions.__annotations__])


ALGORITHMS: Mapping[str, Row] = {
    row.name: row
    for row in (
        Row(algorithms.fedavg),
        Row(algorithms.fedprox),
        Row(algorithms.fedopt),
        Row(algorithms.fedsparsify_global),
        Row(algorithms.fedsparsify_local),
        Row(algorithms.fedsparsify_plus, defaults={"momentum": 0.9}),
        Row(algorithms.random_pruning),
        Row(algorithms.one_shot),
        Row(algorithms.snip),
        Row(algorithms.grasp, defaults={"prunable": "kernels"}),
        Row(
            algorithms.synflow,
            defaults={"prunable": "kernels"},
            reads_examples=True,
        ),
        Row(algorithms.prunefl),
        Row(algorithms.feddst),
        Row(algorithms.static),
        Row(algorithms.rigl),
        Row(
            algorithms.feddip,
            defaults={"initial_sparsity": 0.5, "prunable": "kernels"},
        ),
        Row(algorithms.flash),
        Row(algorithms.sparsyfed),
        Row(algorithms.halo),
        Row(algorithms.ste),
        Row(algorithms.progfed),
        Row(algorithms.heterofl, chain=True, defaults={"gradient_clip": 1.0}),
        Row(algorithms.fedrolex, chain=True, defaults={"gradient_clip": 1.0}),
        Row(algorithms.lotteryfl, defaults={"prunable": "kernels"}),
        Row(algorithms.dispfl),
        Row(algorithms.ssfl),
        Row(algorithms.fedtiny),
        Row(algorithms.fedrts),
        Row(algorithms.unipts),
        Row(algorithms.slimmable),
    )
}
"""Rows by name, in the order of the help."""
