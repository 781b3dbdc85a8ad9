"""NVFlare's FedAvg workflow with this library's cohorts."""

from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.workflows.fedavg import FedAvg

from fedsparsify_jax.federate.nvflare.aggregator import SparseAggregator


class SparseRounds(FedAvg):
    """Rounds whose cohorts are drawn as in a simulation.

    A site that fails is left out of the round. NVFlare's round 0 asks the sites to
    join, so that its rounds have the numbers of the simulation's.

    Args of the constructor:
      aggregator: of the rounds.
      num_rounds: of NVFlare, one more than the run has left.
    """

    def __init__(self, aggregator: SparseAggregator, num_rounds: int):
        super().__init__(
            aggregator=aggregator,
            num_rounds=num_rounds,
            num_clients=len(aggregator.sites),
            persistor_id="",
            ignore_result_error=True,
        )

    def load_model(self) -> FLModel:
        """Returns the invitation."""
        return self.aggregator.first_model()

    def sample_clients(self, num_clients: int | None = None) -> list[str]:
        """Returns the names of the round's sites."""
        return self.aggregator.cohort()

    def save_model(self, model: FLModel) -> None:
        """Does nothing: the run directory has checkpoints and the model."""
