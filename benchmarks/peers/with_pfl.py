"""pfl: its own `FederatedAveraging` in PyTorch; started by torchrun on 2 processes."""

import os
from typing import Any

import torch
import torch_mlp
import work
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam.base import NNTrainHyperParams
from pfl.metrics import Metrics, Weighted
from pfl.model.pytorch import PyTorchModel


class Network(torch.nn.Module):
    """The MLP with the two methods that pfl asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch_mlp.network()

    def loss(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self.body(x), y)

    @torch.no_grad()
    def metrics(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, Any]:
        return {"loss": Weighted(self.loss(x, y).item() * len(y), len(y))}


class TakeTurns(TrainingProcessCallback):
    """The first process waits for the referee, and the others for the first."""

    def __init__(self) -> None:
        first = int(os.environ.get("RANK", "0")) == 0
        self._turns = work.Turns() if first else None
        self._rounds = int(os.environ["PEERS_ROUNDS"])

    def _wait(self) -> None:
        if self._turns is not None:
            self._turns.wait()
        torch.distributed.barrier()

    def on_train_begin(self, *, model: PyTorchModel) -> Metrics:
        self._wait()
        return Metrics()

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        done = central_iteration + 1
        if done < self._rounds:
            self._wait()
        elif self._turns is not None:
            self._turns.finish(torch_mlp.layers(model.pytorch_model))
        return False, Metrics()


def main() -> None:
    torch.manual_seed(0)
    rounds = int(os.environ["PEERS_ROUNDS"])
    network = Network()
    model = PyTorchModel(
        network,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(network.parameters(), lr=1.0),
    )
    users = [
        Dataset(raw_data=[x, y], user_id=str(number))
        for number, (x, y) in enumerate(torch_mlp.clients())
    ]
    sampler = get_user_sampler("minimize_reuse", list(range(work.CLIENTS)))
    federated = FederatedDataset(lambda i: users[i], sampler)
    FederatedAveraging().run(
        NNAlgorithmParams(
            central_num_iterations=rounds,
            evaluation_frequency=rounds + 1,  # only before the round that is left out
            train_cohort_size=work.CLIENTS,
            val_cohort_size=None,
        ),
        SimulatedBackend(training_data=federated, val_data=federated),
        model,
        NNTrainHyperParams(
            local_num_epochs=work.EPOCHS,
            local_learning_rate=work.RATE,
            local_batch_size=work.BATCH,
        ),
        callbacks=[TakeTurns()],
    )


if __name__ == "__main__":
    main()
