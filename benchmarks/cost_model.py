"""Time of a round on paper, beside what was measured here.

Prints the tables of docs/scaling.md. The formula is `seconds`;
the rate of a device comes from ONE measurement (the complete Global round of
results-peers.json) and is then used to predict the others. A pod is computed from
figures of its maker that are arguments, for nobody here has measured one.

    python benchmarks/cost_model.py
"""

import argparse
import json
import math
import statistics
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from fedsparsify_jax import models
from fedsparsify_jax.metrics import layer_flops, training_flops
from fedsparsify_jax.trees import size

HERE = Path(__file__).parent
SHAPES = {
    "mlp": ((28, 28), 10),
    "cnn": ((32, 32, 3), 10),
    "vgg16_bn": ((32, 32, 3), 100),
}


class Network(NamedTuple):
    """What a round's cost needs of a network."""

    parameters: int
    flops: int  # of training on one example
    example: int  # bytes


class Round(NamedTuple):
    """One round of a federation."""

    clients: int  # in the cohort
    examples: int  # of each
    epochs: int
    devices: int


class Machine(NamedTuple):
    """What a round runs on."""

    rate: float  # FLOP/s that a device reaches in local training
    link: float  # bytes/s of a device's links to the others; inf within one memory
    merge: float  # numbers/s that merge, purge and count get through


def network(name: str) -> Network:
    shape, classes = SHAPES[name]
    model = models.build(name, input_shape=shape, num_classes=classes)
    variables = jax.eval_shape(model.init, jax.random.key(0))
    layers = layer_flops(model.apply, variables, (1, *shape), jnp.uint8)
    return Network(size(variables), training_flops(layers), math.prod(shape))


def seconds(net: Network, work: Round, machine: Machine) -> dict[str, float]:
    """Local training, all-reduce of the sums, merge and purge."""
    rows = -(-work.clients // work.devices)
    train = rows * work.examples * work.epochs * net.flops / machine.rate
    share = (work.devices - 1) / work.devices
    # A ring sends every number twice: sums of weights and of votes, 4 bytes each.
    reduce = 2 * share * 8 * net.parameters / machine.link
    merge = net.parameters / machine.merge
    return {"train": train, "all-reduce": reduce, "merge and purge": merge}


def read(name: str) -> Any:
    return json.loads((HERE / f"results-{name}.json").read_text())


def measured_here() -> Machine:
    """The rate of one of the two CPU devices, from the paper-scale round."""
    net, work = network("mlp"), Round(10, 6000, 4, 1)
    round_seconds = statistics.median(read("peers")["seconds"]["ours"])
    flops = work.clients * work.examples * work.epochs * net.flops
    return Machine(flops / 2 / round_seconds, math.inf, math.inf)


def check() -> None:
    """Predictions for the rounds of cohorts.py, which are not what was fitted."""
    machine, net = measured_here(), network("mlp")
    print(f"rate of a CPU device, fitted: {machine.rate / 1e9:.1f} GFLOP/s\n")
    print("| clients | strategy | devices | ms a client, model | measured | ratio |")
    print("|---|---|---|---|---|---|")
    for line in read("cohorts")["lines"]:
        devices = 1 if "one device" in line["strategy"] else 2
        work = Round(line["clients"], 64, 1, devices)
        model = 1000 * sum(seconds(net, work, machine).values()) / work.clients
        found = line["ms_a_client"]
        print(
            f"| {work.clients} | {line['strategy']} | {devices} | {model:.3f} | "
            f"{found:.3f} | {found / model:.2f} |"
        )


def pod(arguments: argparse.Namespace) -> None:
    """10,000 clients on a pod, from the figures given."""
    machine = Machine(
        arguments.peak_tflops * 1e12 * arguments.utilization,
        arguments.link_gbytes * 1e9,
        arguments.merge_gnumbers * 1e9,
    )
    print(
        f"\n{arguments.chips} chips of {arguments.peak_tflops} TFLOP/s, "
        f"{arguments.utilization:.0%} of it reached, links {arguments.link_gbytes} "
        f"GB/s; 10,000 clients x 500 examples, 4 epochs\n"
    )
    print("| network | train s | all-reduce s | merge s | data a chip |")
    print("|---|---|---|---|---|")
    for name in SHAPES:
        net, work = network(name), Round(10_000, 500, 4, arguments.chips)
        cost = seconds(net, work, machine)
        data = -(-work.clients // work.devices) * work.examples * net.example
        print(
            f"| {name} | {cost['train']:.3f} | {cost['all-reduce']:.5f} | "
            f"{cost['merge and purge']:.5f} | {data / 2**20:.0f} MiB |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chips", type=int, default=256)
    parser.add_argument("--peak-tflops", type=float, default=100.0)
    parser.add_argument("--utilization", type=float, default=0.05)
    parser.add_argument("--link-gbytes", type=float, default=50.0)
    parser.add_argument("--merge-gnumbers", type=float, default=1.0)
    arguments = parser.parse_args()
    check()
    pod(arguments)


if __name__ == "__main__":
    main()
