"""The bytes of a run's messages, by encoding all of them."""

from typing import Any, Literal

import jax
import numpy as np

from fedsparsify_jax.compressors import Change
from fedsparsify_jax.deploy import wire
from fedsparsify_jax.runner.display.summary import Record
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.types import (
    Masks,
    RoundInfo,
    RoundMessages,
    UploadCompression,
    Variables,
)


def meter(config: TrainConfig) -> "Meter | None":
    """Returns what measures a run's messages; None unless the run wants that.

    Raises:
      InputError: if the package that compresses is missing.
    """
    if not config.measure_bytes:
        return None
    compress: Literal["zstd"] | None = (
        None if config.wire_compression == "none" else "zstd"
    )
    return Meter(config.wire_values, compress, config.upload_compression)


class Meter:
    """Encodes the messages of round after round and counts their bytes.

    A client that has taken part knows the masks of that round, and its next download is
    coded against them; the first one has no such masks. Its upload is coded against the
    masks of the download that it answers, which the server knows as well.

    Args:
      values: dtype in which models travel.
      compress: what messages are compressed by.
      uploads: what clients upload in place of their model, if they do.
    """

    def __init__(
        self,
        values: str,
        compress: Literal["zstd"] | None,
        uploads: UploadCompression = "none",
    ):
        self._options: dict[str, Any] = {"values": values, "compress": compress}
        self._compression = uploads
        self._known: dict[int, Masks] = {}  # the masks that clients have
        wire.encode({}, compress=compress)  # complains early

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
        distinct = {id(masks): masks for masks in self._known.values()}
        numbers = {key: str(number) for number, key in enumerate(distinct)}
        packed = {
            numbers[key]: jax.tree.map(np.packbits, masks)
            for key, masks in distinct.items()
        }
        clients = {str(c): numbers[id(masks)] for c, masks in self._known.items()}
        return wire.encode(packed, metadata={"clients": clients})

    def restore(self, saved: bytes | None, like: Masks) -> None:
        """Takes up what was saved.

        Args:
          saved: None if no messages were measured: no masks are known then.
          like: masks of the model.
        """
        if saved is None:
            return
        message = wire.decode(saved, limit=2**40)
        masks = {
            number: jax.tree.map(_unpacked, packed, like)
            for number, packed in message.variables.items()
        }
        clients = message.metadata["clients"].items()
        self._known = {int(client): masks[number] for client, number in clients}

    def _downloads(self, messages: RoundMessages, cohort: np.ndarray) -> int:
        """Returns the bytes to all clients; equal messages are encoded once."""
        total, sizes = 0, {}
        for client, arrived in zip(cohort.tolist(), messages.arrived, strict=True):
            known = self._known.get(client)
            if id(known) not in sizes:
                sizes[id(known)] = self._size(messages.variables, messages.masks, known)
            total += sizes[id(known)]
            if arrived:  # of others the server cannot know what they got
                self._known[client] = messages.masks
        return total

    def _uploads(self, messages: RoundMessages) -> int:
        total = int(np.sum(messages.extra_up[messages.arrived], dtype=np.int64))
        for client in np.flatnonzero(messages.arrived):
            variables, masks, change = jax.tree.map(
                lambda leaf, client=client: leaf[client],
                (messages.uploads, messages.upload_masks, messages.changes),
            )
            if change == () or not _finite(variables):
                total += self._size(variables, masks, messages.masks)
                continue
            message = encode_upload(
                self._compression,
                variables,
                change,
                masks,
                previous=messages.masks,
                **self._options,
            )
            total += len(message)
        return total

    def _size(self, variables: Variables, masks: Masks, previous: Masks | None) -> int:
        """Returns the bytes of one message."""
        if not _within(variables, masks):  # a broken or hostile upload
            return len(wire.encode(variables, **self._options))
        return len(wire.encode(variables, masks, previous=previous, **self._options))


def encode_upload(
    compression: UploadCompression,
    variables: Variables,
    change: Change,
    masks: Masks,
    *,
    values: Literal["float32", "float16", "bfloat16"] = "float32",
    **options: Any,
) -> bytes:
    """Writes a compressed upload: the change of its parameters, and all else as it is.

    Args:
      compression: what the change has gone through.
      variables: of the upload; its parameters are not sent.
      change: that the server adds to the model that it sent out, under the masks.
      masks: of the upload.
      values: dtype in which the numbers of ``"topk"`` travel.
      **options: of `deploy.wire.encode`.
    """
    sent = variables | {"params": change.numbers}
    if compression == "topk":
        return wire.encode(sent, masks, values=values, nonzero=True, **options)
    assert compression in ("int8", "int4")
    scales = {"params": change.scales}
    return wire.encode(sent, masks, values=compression, scales=scales, **options)


def _finite(variables: Variables) -> bool:
    """Returns whether an upload is whole: others are sent as they are."""
    floats = (v for v in jax.tree.leaves(variables) if v.dtype.kind not in "biu")
    return all(bool(np.isfinite(leaf).all()) for leaf in floats)


def _unpacked(packed: np.ndarray, like: Any) -> np.ndarray:
    return np.unpackbits(packed, count=like.size).astype(bool).reshape(like.shape)


def _within(variables: Variables, masks: Masks) -> bool:
    """Returns whether all that the masks drop is zero."""
    outside = jax.tree.map(lambda v, m: bool(np.any(v[~m])), variables, masks)
    return not any(jax.tree.leaves(outside))
