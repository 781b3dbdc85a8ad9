"""Flower: its own FedAvg strategy, clients in PyTorch on two Ray workers."""

import os

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}

import torch
import torch_mlp
import work
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

WORKERS = 2
client_app, server_app = ClientApp(), ServerApp()


@client_app.train()
def train(message: Message, context: Context) -> Message:
    torch.set_num_threads(1)
    x, y = torch_mlp.clients()[int(context.node_config["partition-id"])]
    model = torch_mlp.network()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=work.RATE)
    for _ in range(work.EPOCHS):
        for index in torch.randperm(len(y)).split(work.BATCH):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[index]), y[index]).backward()
            optimizer.step()
    answer = {
        "arrays": ArrayRecord(model.state_dict()),
        "metrics": MetricRecord({"num-examples": len(y)}),
    }
    return Message(content=RecordDict(answer), reply_to=message)


@server_app.main()
def serve(grid: Grid, context: Context) -> None:
    turns = work.Turns()
    model = torch_mlp.network()

    def between_rounds(completed: int, arrays: ArrayRecord) -> None:
        if completed < turns.rounds:
            turns.wait()
            return
        model.load_state_dict(arrays.to_torch_state_dict())
        turns.finish(torch_mlp.layers(model))

    FedAvg(fraction_evaluate=0.0).start(
        grid=grid,
        initial_arrays=ArrayRecord(model.state_dict()),
        num_rounds=turns.rounds,
        evaluate_fn=between_rounds,
    )


def main() -> None:
    run_simulation(
        server_app,
        client_app,
        num_supernodes=work.CLIENTS,
        backend_config={
            "client_resources": {"num_cpus": 1.0, "num_gpus": 0.0},
            "init_args": {"num_cpus": WORKERS},
        },
    )


if __name__ == "__main__":
    main()
