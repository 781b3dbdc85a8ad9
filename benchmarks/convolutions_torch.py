"""PyTorch's side of `convolutions.py`; run by its environment's Python.

For every line on standard input it makes that many client steps and prints the seconds
of one. Clients take turns, each with its own network, as in a simulation that keeps
them in memory; the network is that of ``cnn``: layers, initial sizes, norms, dropout.
"""

import sys
import time

import torch
from torch import nn

BATCH, CLIENTS, RATE = 32, 4, 0.02


def network() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for width in (64, 128, 128):
        if layers:
            layers.append(nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01))
        for _ in range(2):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    layers += [nn.Flatten(), nn.Linear(2048, 512), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.2), nn.Linear(512, 10))


def main() -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    last = torch.channels_last
    networks = [network().to(memory_format=last).train() for _ in range(CLIENTS)]
    updates = [torch.optim.SGD(one.parameters(), lr=RATE) for one in networks]
    x = torch.rand(BATCH, 3, 32, 32).to(memory_format=last)
    y = torch.randint(0, 10, (BATCH,))

    def step(client: int) -> None:
        updates[client].zero_grad()
        nn.functional.cross_entropy(networks[client](x), y).backward()
        updates[client].step()

    for client in range(CLIENTS):
        step(client)
    parameters = sum(one.numel() for one in networks[0].parameters())
    print(parameters, torch.__version__, flush=True)
    for line in sys.stdin:
        steps = int(line)
        start = time.perf_counter()
        for number in range(steps):
            step(number * CLIENTS // steps)
        print((time.perf_counter() - start) / steps, flush=True)


if __name__ == "__main__":
    main()
