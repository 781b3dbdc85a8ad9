"""A curious server: has one client's upload, and the model that the client got.

The upload is that of the round after the last one: the client goes on from the final
model once more, with its own examples, as it would in that round.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import trees
from fedsparsify_jax.engine.halves import fields_read, no_examples
from fedsparsify_jax.engine.records import ClientResult
from fedsparsify_jax.engine.wrappers.ema import Averaged
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.method import Context, Upload
from fedsparsify_jax.runner.audit.attacks import Network
from fedsparsify_jax.runner.audit.finished import Finished, last_state
from fedsparsify_jax.runner.audit.members import Pool, others_like
from fedsparsify_jax.runner.audit.options import NonMembers
from fedsparsify_jax.runner.programs.federation import round_key
from fedsparsify_jax.types import (
    ClientData,
    Examples,
    Halves,
    State,
    Variables,
)


class Observed(NamedTuple):
    """A client's part of the round that a curious server looks at.

    Attributes:
      halves: of the algorithm.
      state: of the federation before it.
      context: as the client is told of the round.
      client: its number.
      upload: of the client.
    """

    halves: Halves
    state: State
    context: Context
    client: int
    upload: Upload


def pool_of(run: Finished, client: int, non_members: NonMembers, seed: int) -> Pool:
    """Returns a client's examples, and at most as many others.

    Args:
      run: that is attacked.
      client: its number.
      non_members: whose the others are.
      seed: of the draw among them.

    Raises:
      InputError: if there is no such client, or no other one.
    """
    dataset, parts = run.federation.dataset, run.federation.parts
    if client >= len(parts):
        raise InputError(
            f"--client is {client}: the run {run.path} has "
            f"{counted(len(parts), 'client')}, counted from 0"
        )
    rows = np.sort(parts[client])
    if non_members == "test":
        source, among = dataset.test, np.arange(len(dataset.test.y))
    else:
        others = [part for number, part in enumerate(parts) if number != client]
        if not others:
            raise InputError(
                f"--non-members clients: the run {run.path} has no other client"
            )
        source, among = dataset.train, np.sort(np.concatenate(others))
    chosen = among[others_like(len(rows), len(among), seed)]
    return Pool(dataset.train, rows, Examples(source.x[chosen], source.y[chosen]))


def observed(run: Finished, client: int) -> Observed:
    """Runs a client's part of one more round from the final model.

    Raises:
      InputError: for algorithms whose clients cannot work apart, or upload no model of
        the whole network; and without a checkpoint of the last round.
    """
    dataset, part = run.federation.dataset, run.federation.parts[client]
    data = ClientData(
        x=jnp.asarray(dataset.train.x[part]),
        y=jnp.asarray(dataset.train.y[part]),
        sizes=jnp.int32(len(part)),
    )
    halves = _halves(run)
    _check_apart(run, halves, data)
    state = last_state(run)
    key = round_key(run.keys.rounds, state.round)
    context = jax.jit(halves.open)(key, state, no_examples(data))
    kept = trees.take(state.clients, client)
    result = jax.jit(halves.client)(key, context, jnp.int32(client), data, kept)
    return Observed(
        halves=halves,
        state=state,
        context=context,
        client=client,
        upload=result.upload,
    )


def _halves(run: Finished) -> Halves:
    """Returns the halves of a run's algorithm, if its uploads can be attacked."""
    algorithm, name = run.federation.algorithm, run.config.algorithm
    if algorithm.client_model is not None:
        raise InputError(
            f"the clients of {name} have models of their own, so an upload is no model "
            "for all: --threat server does not go with it"
        )
    if run.config.cohort_sampling != "fixed":
        raise InputError(
            "--threat server looks at a round of fixed cohorts: it does not go with a "
            f"run of --cohort-sampling {run.config.cohort_sampling}"
        )
    if algorithm.halves is None:
        raise InputError(
            f"the clients of {name} cannot work apart from the server, so there is no "
            "upload to look at: --threat server does not go with it"
        )
    return algorithm.halves


def _check_apart(run: Finished, halves: Halves, data: ClientData) -> None:
    """Refuses methods whose clients read one another, or get parts of the network."""
    name, key = run.config.algorithm, jax.random.key(0)

    def start() -> State:
        variables = run.federation.model.init(key)
        return run.federation.algorithm.init(key, variables)

    def part(state: State) -> ClientResult:
        context = halves.open(key, state, no_examples(data))
        kept = halves.keep(state.variables)
        result: ClientResult = halves.client(key, context, jnp.int32(0), data, kept)
        return result

    state = jax.eval_shape(start)
    if "clients" in fields_read(halves, state, data):
        raise InputError(
            f"clients of {name} read what others keep: --threat server does not go "
            "with it"
        )
    if jax.tree.leaves(jax.eval_shape(part, state).bytes_down):
        raise InputError(
            f"every client of {name} gets a part of the network, so an upload is no "
            "whole model: --threat server does not go with it"
        )


def model_of(run: Finished, state: State, upload: Upload) -> Variables:
    """Returns the model that an upload is, as `FederatedAlgorithm.model` has it."""
    state = state._replace(variables=upload.variables, masks=upload.masks)
    if isinstance(state.server, Averaged):
        average = state.server._replace(average=upload.variables)
        state = state._replace(server=average)
    return run.federation.algorithm.model(state)


def network_of(run: Finished, seen: Observed) -> Network:
    """Returns an upload as the network that is attacked."""
    variables = model_of(run, seen.state, seen.upload)
    return Network(
        model=run.federation.model,
        variables=variables,
        masks=trees.restricted(seen.upload.masks, variables),
        dataset=run.federation.dataset,
    )
