"""A node: one client of a federation, on the machine of its data.

It answers messages, one after another, and remembers between them what `Halves.client`
keeps, and the masks that it was sent last. The random numbers of a round are those of
the simulation: they depend on the seed, the round, and the client's number.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.client_map import vmapped
from fedsparsify_jax.data import Dataset
from fedsparsify_jax.deploy import exchange
from fedsparsify_jax.engine.halves import fields_read, no_examples
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.federate import envelope, kinds, leaves, own
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.federate.kept import Kept
from fedsparsify_jax.federate.network import Answer
from fedsparsify_jax.federate.plan import Plan, exchange_of, plan_of
from fedsparsify_jax.federate.results import more_of
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.programs.federation import Keys, algorithm_of, round_key
from fedsparsify_jax.types import ClientData, Examples, Halves, Key, Masks, State


class Joined(NamedTuple):
    """A node that knows the federation."""

    config: TrainConfig
    dataset: Dataset  # of the node's examples
    model: Model
    exchange: exchange.Exchange


class Ready(NamedTuple):
    """A node that can train."""

    halves: Halves
    client: Callable[..., Any]  # jitted
    open: Callable[..., Any]  # jitted
    data: ClientData
    state: State  # before the first round, for structures
    reads: frozenset[str]  # fields of the context
    key: Key  # of the rounds


class Node:
    """The answers of one client.

    Args of the constructor:
      number: of the client, from 0.
      load: the server's plan to its options, the client's own examples, and the model.
      kept: what it keeps between rounds.
    """

    def __init__(
        self,
        number: int,
        load: Callable[[Plan], tuple[TrainConfig, Dataset, Model]],
        kept: Kept,
    ):
        self._number, self._load, self._kept = number, load, kept
        self._joined: Joined | None = None
        self._ready: Ready | None = None
        self._masks: list[Masks] = []  # of the latest downloads, the newest first

    def answer(self, message: bytes) -> bytes:
        """Returns the answer to a message.

        Raises:
          InputError: if the message is none of a federation, or cannot be answered.
        """
        letter = envelope.read(message)
        match letter.kind:
            case kinds.JOIN:
                reply = self._join(letter)
            case kinds.BEGIN:
                reply = self._begin(letter)
            case kinds.TRAIN:
                reply = self._train(letter)
            case _:
                raise InputError(f"a node has no answer to {shown(letter.kind)}")
        return envelope.write(reply)

    def _join(self, letter: Envelope) -> Envelope:
        plan = plan_of(letter)
        config, dataset, model = self._load(plan)
        self._joined = Joined(
            config=config, dataset=dataset, model=model, exchange=exchange_of(config)
        )
        self._ready, self._masks = None, []
        return Envelope(
            kinds.JOINED,
            {"client": self._number, "examples": len(dataset.train.y)},
        )

    def _begin(self, letter: Envelope) -> Envelope:
        if self._joined is None:
            return Envelope(kinds.LACKS, {"what": kinds.JOIN})
        longest = letter.fact("longest", int)
        config, dataset, model, _ = self._joined
        size = len(dataset.train.y)
        if longest < size:
            raise InputError(
                f"the largest client is said to have {longest} examples: this node "
                f"has {size}"
            )
        algorithm = algorithm_of(
            config,
            model,
            dataset,
            vmapped(),
            batch_size=min(config.batch_size or 1, longest),
        )
        assert algorithm.halves is not None
        keys = Keys.from_seed(config.seed)
        state = algorithm.init(keys.state, model.init(keys.model))
        data = padded(dataset.train, longest)
        self._ready = Ready(
            halves=algorithm.halves,
            client=jax.jit(algorithm.halves.client),
            open=jax.jit(algorithm.halves.open),
            data=data,
            state=state,
            reads=fields_read(algorithm.halves, state, data),
            key=keys.rounds,
        )
        self._kept.begin(algorithm.halves.keep(state.variables))
        self._warm_up()
        return Envelope(kinds.READY, {})

    def _warm_up(self) -> None:
        """Compiles the client's part, by training for nothing."""
        assert self._ready is not None
        key = round_key(self._ready.key, jnp.int32(0))
        context = self._context(key, self._ready.state, None)
        self._ready.client(
            key, context, jnp.int32(self._number), self._ready.data, self._kept.first
        )

    def _context(self, key: Key, state: State, server: Any) -> Any:
        """Returns the round as this client is told of it."""
        assert self._ready is not None
        context = self._ready.open(key, state, no_examples(self._ready.data))
        if server is not None:
            context = context._replace(server=server)
        return context._replace(clients=())

    def _train(self, letter: Envelope) -> Envelope:
        if self._ready is None or self._joined is None:
            return Envelope(kinds.LACKS, {"what": kinds.JOIN})
        ready, t = self._ready, letter.fact("round", int)
        sent = self._read(letter)
        if sent is None:
            return Envelope(kinds.LACKS, {"what": kinds.MASKS})
        kept = self._kept.after(letter.fact("merged", int), letter.fact("oldest", int))

        # Tune, and purge where clients do.
        key = round_key(ready.key, jnp.int32(t - 1))
        state = ready.state._replace(
            variables=sent.variables, masks=sent.masks, round=jnp.int32(t - 1)
        )
        server = None
        if "server" in ready.reads:
            like = self._context(key, state, None).server
            server = leaves.read(letter.parts.get("server", b""), like, "the state")
        context = self._context(key, state, server)
        # What was prepared before round 1, or rounded, is in the model that was sent.
        context = context._replace(variables=sent.variables, masks=sent.masks)
        number = jnp.int32(self._number)
        result = jax.device_get(ready.client(key, context, number, ready.data, kept))

        # Upload.
        self._kept.put(t, result.state)
        self._masks = [sent.masks, *self._masks[:1]]
        upload = result.upload
        parts = exchange.write_upload(
            self._joined.exchange,
            upload.variables,
            upload.masks,
            result.change if bool(result.finite) else (),
            sent.masks,
        )
        parts["more"] = leaves.write(more_of(result))
        return Envelope(kinds.TRAINED, {"client": self._number, "round": t}, parts)

    def _read(self, letter: Envelope) -> exchange.Sent | None:
        """Returns the model that was sent; None without the masks it is coded by."""
        assert self._ready is not None
        like = self._ready.state.masks
        refused: InputError | None = None
        for previous in (*self._masks, None):
            try:
                return exchange.read_model(letter.parts, like, previous)
            except InputError as error:
                refused = refused or error
        if letter.fact("whole", bool):
            assert refused is not None
            raise refused
        return None


def padded(examples: Examples, length: int) -> ClientData:
    """Returns one client's data, as long as the largest client's.

    >>> padded(Examples(np.ones((2, 3)), np.ones(2, int)), 4).x.shape
    (4, 3)
    """

    def of(array: Any) -> jax.Array:
        array = np.asarray(array)
        full = np.zeros((length, *array.shape[1:]), array.dtype)
        full[: len(array)] = array
        return jnp.asarray(full)

    x, y = examples
    return ClientData(x=of(x), y=of(y), sizes=jnp.int32(len(np.asarray(y))))


def answer_of(settings: Mapping[str, Any]) -> Answer:
    """Returns the answers of the node that settings describe.

    Args:
      settings: ``client`` is its number; ``state`` a directory for what it keeps, if
        it is to be started anew as the same client; ``data`` options of `own.DATA`, by
        which it names its own data.

    Raises:
      InputError: for settings that say no number.
    """
    number = settings.get("client")
    if type(number) is not int or number < 0:
        raise InputError(f"a node needs its client's number: got {shown(number)}")
    data, state = settings.get("data") or {}, settings.get("state")
    kept = Kept(Path(state) if state else None)
    return Node(number, functools.partial(own.loaded, number, data), kept).answer
