"""Encrypted rounds in one process: server, clients and key holder, without a network.

It is the federation of `server.train` over a `Loopback` of nodes that share the loaded
data and one compiled program. Everything that would be sent is written and read.
"""

from typing import Any

from rich.console import Console

from fedsparsify_jax import data
from fedsparsify_jax.deploy import encrypted
from fedsparsify_jax.federate import server
from fedsparsify_jax.federate.cipher import Cipher
from fedsparsify_jax.federate.client_program import ClientProgram, program_of
from fedsparsify_jax.federate.kept import Kept
from fedsparsify_jax.federate.network import Answer, Loopback
from fedsparsify_jax.federate.node import Node
from fedsparsify_jax.federate.plan import Plan
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import from_json
from fedsparsify_jax.runner.programs.federation import checked_model, load, partition

HOLDER = 0
"""The client that has the secret key."""


def train(config: TrainConfig, console: Console | None = None) -> dict[str, Any]:
    """Trains a federation whose uploads the server cannot read, in this process.

    Args:
      config: the options, with ``encrypted``.
      console: where progress goes; standard output by default.

    Returns:
      The content of ``summary.json``.

    Raises:
      InputError: one line that says what is wrong and what to do.
      Stopped: after SIGTERM or SIGINT and saving.
    """
    config = server.checked(config)
    dataset = data.hold_out(load(config), config.validation_fraction, config.seed)
    parts = partition(config, dataset.train.y, dataset.owners)
    keys = encrypted.make_keys()

    programs: dict[int, ClientProgram] = {}

    def one_program(
        config: TrainConfig, own: data.Dataset, model: Model, longest: int
    ) -> ClientProgram:
        if longest not in programs:
            programs[longest] = program_of(config, own, model, longest)
        return programs[longest]

    def node(number: int) -> Answer:
        own = data.with_rows(dataset, parts[number])

        def loaded(plan: Plan) -> tuple[TrainConfig, data.Dataset, Model]:
            options = from_json(plan.options, "the server's plan")
            return options, own, checked_model(options, own)[0]

        cipher = Cipher(keys if number == HOLDER else None)
        return Node(number, loaded, Kept(), cipher, one_program).answer

    network = Loopback({number: node(number) for number in range(len(parts))})
    return server.train(network, config, console=console)
