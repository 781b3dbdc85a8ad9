"""A client's half of the round as a compiled program, for one node."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import trees
from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.data import Dataset, stack
from fedsparsify_jax.deploy.exchange import Sent
from fedsparsify_jax.engine.halves import fields_read, no_examples
from fedsparsify_jax.engine.records import ClientResult
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import leaves
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs.federation import Keys, algorithm_of, round_key
from fedsparsify_jax.types import ClientData, ClientsState, Examples, Key, State


class ClientProgram(NamedTuple):
    """The client's half of an algorithm, and what its context is made of."""

    client: Callable[..., Any]  # jitted
    open: Callable[..., Any]  # jitted
    state: State  # before the first round, for structures
    first: ClientsState  # what a client keeps before it
    reads: frozenset[str]  # fields of the context
    key: Key  # of the rounds

    def train(
        self,
        number: int,
        t: int,
        sent: Sent,
        server: bytes,
        data: ClientData,
        kept: ClientsState,
    ) -> ClientResult:
        """Returns the result of a client's round, on the host.

        Args:
          number: of the client.
          t: the round.
          sent: the global model.
          server: the server's state as a message, if clients read it.
          data: of the client.
          kept: what it keeps from the round before.

        Raises:
          InputError: if the server's state is not that of this algorithm.
        """
        key = round_key(self.key, jnp.int32(t - 1))
        state = self.state._replace(
            variables=sent.variables, masks=sent.masks, round=jnp.int32(t - 1)
        )
        context = self._context(key, state, data)
        if "server" in self.reads:
            like = context.server
            context = context._replace(server=leaves.read(server, like, "the state"))
        # What was prepared before round 1, or rounded, is in the model that was sent.
        context = context._replace(variables=sent.variables, masks=sent.masks)
        result: ClientResult = jax.device_get(
            self.client(key, context, jnp.int32(number), data, kept)
        )
        return result

    def warm_up(self, data: ClientData) -> None:
        """Compiles everything, by training for nothing."""
        key = round_key(self.key, jnp.int32(0))
        context = self._context(key, self.state, data)
        self.client(key, context, jnp.int32(0), data, self.first)

    def _context(self, key: Key, state: State, data: ClientData) -> Any:
        """Returns the round as a client is told of it."""
        context = self.open(key, state, no_examples(data))
        return context._replace(clients=())


BuildFn = Callable[[TrainConfig, Dataset, Model, int], ClientProgram]
"""Options, a client's own data set, the model and the largest client's examples to the
client's program."""


def program_of(
    config: TrainConfig, dataset: Dataset, model: Model, longest: int
) -> ClientProgram:
    """Builds the program of a client.

    Args:
      config: resolved.
      dataset: the client's own.
      model: that is trained.
      longest: examples of the largest client.

    Raises:
      InputError: for options that do not go together, or an algorithm whose clients
        cannot work apart.
    """
    batch_size = min(config.batch_size or 1, longest)
    algorithm = algorithm_of(config, model, dataset, vmapped(), batch_size=batch_size)
    halves = algorithm.halves
    if halves is None:
        raise InputError(f"the clients of {config.algorithm} cannot work apart")
    keys = Keys.from_seed(config.seed)
    state = algorithm.init(keys.state, model.init(keys.model))
    return ClientProgram(
        client=jax.jit(halves.client),
        open=jax.jit(halves.open),
        state=state,
        first=halves.keep(state.variables),
        reads=fields_read(halves, state, padded(dataset.train, longest)),
        key=keys.rounds,
    )


def padded(examples: Examples, length: int) -> ClientData:
    """Returns one client's data, as long as the largest client's.

    >>> padded(Examples(np.ones((2, 3)), np.ones(2, int)), 4).x.shape
    (4, 3)
    """
    everything = np.arange(len(np.asarray(examples.y)))
    one: ClientData = trees.take(stack(examples, [everything], length=length), 0)
    return one
