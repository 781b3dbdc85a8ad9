"""The bytes of a run's messages, by encoding all of them."""

from typing import Protocol

import jax
import numpy as np

from fedsparsify_jax.deploy import exchange, wire
from fedsparsify_jax.deploy.known import Known
from fedsparsify_jax.runner.display.summary import Record
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.types import (
    Masks,
    RoundInfo,
    RoundMessages,
)


def meter(config: TrainConfig) -> "Meter | None":
    """Returns what measures a run's messages; None unless the run wants that.

    Raises:
      InputError: if the package that compresses is missing.
    """
    if not config.measure_bytes:
        return None
    return Meter(exchange_of(config))


def exchange_of(config: TrainConfig) -> exchange.Exchange:
    """Returns the form of a run's messages."""
    return exchange.Exchange(
        values=config.wire_values,
        compress=None if config.wire_compression == "none" else "zstd",
        uploads=config.upload_compression,
    )


class MeasureFn(Protocol):
    """A meter of the messages of round after round, which a run can go on with."""

    def __call__(self, info: RoundInfo) -> Record:
        """Returns the fields that the messages of a round add to its record."""

    def saved(self) -> bytes:
        """Returns what is known of the clients after a round, for `restore`."""

    def restore(self, saved: bytes | None, like: Masks) -> None:
        """Takes up what was saved; None if nothing was."""


class Meter:
    """Encodes the messages of round after round and counts their bytes.

    A client that has taken part knows the masks of that round, and its next download is
    coded against them; the first one has no such masks. Its upload is coded against the
    masks of the download that it answers, which the server knows as well.

    Args:
      form: of the messages.
    """

    def __init__(self, form: exchange.Exchange):
        self._exchange = form
        self._known = Known()
        wire.encode({}, compress=form.compress)  # complains early

    def __call__(self, info: RoundInfo) -> Record:
        """Returns the fields that the messages of a round add to its record."""
        messages = info.messages
        assert isinstance(messages, RoundMessages)
        up = self._uploads(messages) + int(np.sum(info.setup_up, dtype=np.int64))
        down = int(np.sum(info.setup_down, dtype=np.int64))
        down += self._downloads(messages, np.asarray(info.cohort))
        return {"message_bytes_up": up, "message_bytes_down": down}

    def saved(self) -> bytes:
        """Returns which masks clients have, for `restore`."""
        return self._known.saved()

    def restore(self, saved: bytes | None, like: Masks) -> None:
        """Takes up what was saved.

        Args:
          saved: None if no messages were measured: no masks are known then.
          like: masks of the model.
        """
        if saved is None:
            return
        self._known.restore(saved, like)

    def _downloads(self, messages: RoundMessages, cohort: np.ndarray) -> int:
        """Returns the bytes to all clients; equal messages are encoded once."""
        total, sizes = 0, {}
        for client, arrived in zip(cohort.tolist(), messages.arrived, strict=True):
            if client < 0:  # an empty place
                continue
            known = self._known.of(client)
            if id(known) not in sizes:
                sizes[id(known)] = _size(
                    exchange.write_model(
                        self._exchange, messages.variables, messages.masks, known
                    )
                )
            total += sizes[id(known)]
            if arrived:  # of others the server cannot know what they got
                self._known.put(client, messages.masks)
        return total

    def _uploads(self, messages: RoundMessages) -> int:
        total = int(np.sum(messages.extra_up[messages.arrived], dtype=np.int64))
        for client in np.flatnonzero(messages.arrived):
            variables, masks, change = jax.tree.map(
                lambda leaf, client=client: leaf[client],
                (messages.uploads, messages.upload_masks, messages.changes),
            )
            total += _size(
                exchange.write_upload(
                    self._exchange, variables, masks, change, messages.masks
                )
            )
        return total


def _size(parts: exchange.Parts) -> int:
    """Returns the bytes of the model in a message.

    Masks that a model is not within are left out: in a simulation everybody has them.
    """
    return sum(len(part) for name, part in parts.items() if name != exchange.MASKS)
