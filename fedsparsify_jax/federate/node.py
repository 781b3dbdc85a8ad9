"""A node: one client of a federation, on the machine of its data.

It answers messages, one after another, and remembers between them what `Halves.client`
keeps, and the masks that it was sent last. The random numbers of a round are those of
the simulation: they depend on the seed, the round, and the client's number.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from fedsparsify_jax.data import Dataset
from fedsparsify_jax.deploy import encrypted, exchange
from fedsparsify_jax.engine.records import ClientResult
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.federate import envelope, kinds, leaves, own
from fedsparsify_jax.federate.cipher import Cipher
from fedsparsify_jax.federate.client_program import (
    BuildFn,
    ClientProgram,
    padded,
    program_of,
)
from fedsparsify_jax.federate.clients import PUBLIC
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.federate.kept import Kept
from fedsparsify_jax.federate.network import Answer
from fedsparsify_jax.federate.plan import Plan, plan_of
from fedsparsify_jax.federate.results import more_of
from fedsparsify_jax.models import Model
from fedsparsify_jax.runner.messages import exchange_of
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.types import ClientData, Masks


class Joined(NamedTuple):
    """A node that knows the federation."""

    config: TrainConfig
    dataset: Dataset  # of the node's examples
    model: Model
    exchange: exchange.Exchange


class Node:
    """The answers of one client.

    Args of the constructor:
      number: of the client, from 0.
      load: the server's plan to its options, the client's own examples, and the model.
      kept: what it keeps between rounds.
      cipher: with the secret key, on the node that holds it.
      build: how the client's program is made.
    """

    def __init__(
        self,
        number: int,
        load: Callable[[Plan], tuple[TrainConfig, Dataset, Model]],
        kept: Kept,
        cipher: Cipher | None = None,
        build: BuildFn = program_of,
    ):
        self._number, self._load, self._kept = number, load, kept
        self._cipher = cipher or Cipher()
        self._joined: Joined | None = None
        self._build = build
        self._program: ClientProgram | None = None
        self._data: ClientData | None = None
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
            case kinds.ENCRYPT:
                reply = self._cipher.elected(letter, self._number)
            case kinds.DECRYPT:
                reply = self._cipher.decrypted(letter, self._number)
            case _:
                raise InputError(f"a node has no answer to {shown(letter.kind)}")
        return envelope.write(reply)

    def _join(self, letter: Envelope) -> Envelope:
        plan = plan_of(letter)
        config, dataset, model = self._load(plan)
        self._joined = Joined(
            config=config, dataset=dataset, model=model, exchange=exchange_of(config)
        )
        self._program, self._masks = None, []
        facts = {"client": self._number, "examples": len(dataset.train.y)}
        public = self._cipher.public
        return Envelope(kinds.JOINED, facts, {PUBLIC: public} if public else {})

    def _begin(self, letter: Envelope) -> Envelope:
        if self._joined is None:
            return Envelope(kinds.LACKS, {"what": kinds.JOIN})
        longest = letter.fact("longest", int)
        self._cipher.public = letter.parts.get(PUBLIC, b"")
        config, dataset, model, _ = self._joined
        size = len(dataset.train.y)
        if longest < size:
            raise InputError(
                f"the largest client is said to have {longest} examples: this node "
                f"has {size}"
            )
        self._data = padded(dataset.train, longest)
        self._program = self._build(config, dataset, model, longest)
        self._kept.begin(self._program.first)
        self._program.warm_up(self._data)
        return Envelope(kinds.READY, {})

    def _train(self, letter: Envelope) -> Envelope:
        program, data = self._program, self._data
        if program is None or data is None:
            return Envelope(kinds.LACKS, {"what": kinds.JOIN})
        sent = self._read(letter, program.state.masks)
        if sent is None:
            return Envelope(kinds.LACKS, {"what": kinds.MASKS})

        # Tune, and purge where clients do.
        t = letter.fact("round", int)
        kept = self._kept.after(letter.fact("merged", int), letter.fact("oldest", int))
        server = letter.parts.get("server", b"")
        result = program.train(self._number, t, sent, server, data, kept)

        # Upload.
        self._kept.put(t, result.state)
        self._masks = [sent.masks, *self._masks[:1]]
        parts = self._uploaded(letter, sent, result)
        parts["more"] = leaves.write(more_of(result))
        facts = {"client": self._number, "round": t, "finite": bool(result.finite)}
        return Envelope(kinds.TRAINED, facts, parts)

    def _uploaded(
        self, letter: Envelope, sent: exchange.Sent, result: ClientResult
    ) -> dict[str, bytes]:
        """Returns the parts of an answer that have the upload, in clear or not."""
        assert self._joined is not None
        variables, masks = result.upload.variables, result.upload.masks
        if not letter.facts.get("encrypted"):
            change = result.change if bool(result.finite) else ()
            return exchange.write_upload(
                self._joined.exchange, variables, masks, change, sent.masks
            )
        if not bool(result.finite):
            return {}
        return self._cipher.trained(
            letter, sent.variables, sent.masks, variables, masks
        )

    def _read(self, letter: Envelope, like: Masks) -> exchange.Sent | None:
        """Returns the model that was sent; None without the masks it is coded by."""
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


def answer_of(settings: Mapping[str, Any]) -> Answer:
    """Returns the answers of the node that settings describe.

    Args:
      settings: ``client`` is its number; ``state`` a directory for what it keeps, if
        it is to be started anew as the same client; ``data`` options of `own.DATA`, by
        which it names its own data; ``keys`` a directory of the key holder's keys.

    Raises:
      InputError: for settings that say no number.
    """
    number = settings.get("client")
    if type(number) is not int or number < 0:
        raise InputError(f"a node needs its client's number: got {shown(number)}")
    data, state = settings.get("data") or {}, settings.get("state")
    kept = Kept(Path(state) if state else None)
    load = functools.partial(own.loaded, number, data)
    return Node(number, load, kept, _cipher(settings.get("keys"))).answer


def _cipher(directory: str | None) -> Cipher:
    """Returns the keys of a directory, which are made there the first time."""
    if not directory:
        return Cipher()
    public, secret = (Path(directory) / name for name in ("public.key", "secret.key"))
    if not secret.exists():
        keys = encrypted.make_keys()
        secret.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        secret.touch(mode=0o600)
        public.write_bytes(keys.public)
        secret.write_bytes(keys.secret)
    return Cipher(encrypted.Keys(secret.read_bytes(), public.read_bytes()))
