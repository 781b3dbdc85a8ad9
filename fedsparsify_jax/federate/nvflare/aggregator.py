"""The server's half of every round as NVFlare's `ModelAggregator`."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.aggregators.model_aggregator import ModelAggregator
from rich.console import Console

from fedsparsify_jax.federate.nvflare.arrays import MORE, Content, bits
from fedsparsify_jax.federate.nvflare.inside_out import InsideOut
from fedsparsify_jax.federate.nvflare.models import content_of, model_from
from fedsparsify_jax.federate.nvflare.sites import Call, serve
from fedsparsify_jax.runner.options.listing import from_json


class SparseAggregator(ModelAggregator):
    """Merges, votes and purges as a simulation does, and writes its run directory.

    What it returns is the model of the next round. It takes `controller.SparseRounds`,
    whose first round asks the sites how many examples they have.

    Args of the constructor:
      options: of the run, as its ``config.json`` has them.
      sites: names of NVFlare's clients; the first is client 0 of the simulation.
      own_data: whether they have data of their own; if not, each takes its part of the
        server's data set.
    """

    def __init__(
        self, options: dict[str, Any], sites: list[str], own_data: bool = False
    ):
        super().__init__()
        self.options, self.sites, self.own_data = options, sites, own_data
        self._run: InsideOut[Call, Mapping[int, Content]] | None = None
        self._cohort: Sequence[int] = ()
        self._answers: dict[int, Content] = {}

    def first_model(self) -> FLModel:
        """Starts the run, and returns the invitation of the sites.

        Raises:
          InputError: for options that cannot be federated.
        """
        config = from_json(self.options, "the job")
        self._run = InsideOut(
            functools.partial(
                serve,
                config=config,
                names=self.sites,
                own_data=self.own_data,
                console=Console(highlight=False),
            )
        )
        return self._model(self._run.start())

    def cohort(self) -> list[str]:
        """Returns the names of the sites that the next model is for."""
        return [self.sites[client] for client in self._cohort]

    def accept_model(self, model: FLModel) -> None:
        """Takes the answer of a site; the controller says which one it is of."""
        name = (model.meta or {}).get("client_name")
        if name in self.sites:
            self._answers[self.sites.index(name)] = content_of(model, "up")

    def aggregate_model(self) -> FLModel:
        """Returns the model of the next round.

        Raises:
          InputError: if the federation cannot go on.
        """
        assert self._run is not None, "the controller is to be SparseRounds"
        answers, self._answers = self._answers, {}
        return self._model(self._run.answer(answers))

    def reset_stats(self) -> None:
        """Forgets the answers of a round."""
        self._answers = {}

    def _model(self, call: Call | None) -> FLModel:
        if call is None:  # that was the last round
            return model_from(Content({MORE: bits(b"end")}, {}))
        self._cohort = call.cohort
        return model_from(call.content)
