"""Uploads as they arrive: read, checked, and in the form that the merge takes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedsparsify_jax.deploy import exchange
from fedsparsify_jax.engine.records import ClientResult
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import kinds, leaves
from fedsparsify_jax.federate.clients import Broadcast
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.types import Masks, PyTree, Variables


class Arrived(NamedTuple):
    """An answer to a broadcast."""

    # None for one that is broken: it has arrived, and is rejected
    result: ClientResult | None
    finite: bool


def more_of(result: ClientResult) -> PyTree:
    """Returns the parts of a result that travel beside the model."""
    upload = result.upload
    return (result.loss, result.bytes_up, upload.extra, upload.extra_bytes)


def arrived(
    client: int, letter: Envelope, sent: Broadcast, like: ClientResult
) -> Arrived:
    """Returns the upload in an answer.

    Args:
      client: that answers.
      letter: the answer.
      sent: the round.
      like: shapes of a result.

    Raises:
      InputError: if it is none of this client and round, or has other arrays.
    """
    check(client, letter, sent.round)
    upload = exchange.read_model(letter.parts, like.upload.masks, sent.masks)
    return result_of(upload, letter.parts.get("more", b""), sent, like)


def result_of(
    upload: exchange.Sent, more: bytes, sent: Broadcast, like: ClientResult
) -> Arrived:
    """Returns an upload in the form that the merge takes.

    Args:
      upload: the model, or a change of it.
      more: the message of what `more_of` returns.
      sent: the round.
      like: shapes of a result.

    Raises:
      InputError: if it has other arrays.
    """
    variables = upload.variables
    loss, bytes_up, extra, extra_bytes = leaves.read(more, more_of(like), "the upload")
    if upload.is_change:
        variables = _changed(variables, upload.masks, sent.variables)
    exchange.check_structure(variables, like.upload.variables, "the upload")
    finite = exchange.is_finite((variables, extra, loss))
    result = like._replace(
        upload=like.upload._replace(
            variables=variables,
            masks=upload.masks,
            extra=extra,
            extra_bytes=extra_bytes,
        ),
        loss=loss,
        bytes_up=bytes_up,
        finite=jnp.bool_(finite),
    )
    return Arrived(result, finite)


def check(client: int, letter: Envelope, number: int) -> None:
    """Refuses an answer of another kind, client or round.

    Raises:
      InputError: saying of which.
    """
    facts = (letter.kind, letter.facts.get("client"), letter.facts.get("round"))
    if facts != (kinds.TRAINED, client, number):
        raise InputError(
            f"it answers {facts[0]!r} as client {facts[1]} in round {facts[2]}: "
            f"{kinds.TRAINED!r} in round {number} was asked for"
        )


def stacked(
    ids: Sequence[int], answers: Mapping[int, Arrived], like: ClientResult
) -> ClientResult:
    """Returns the results of a cohort ``[K, ...]``, broken ones where none came."""
    nothing = broken(like)

    def of(client: int) -> ClientResult:
        answer = answers.get(client)
        return nothing if answer is None or answer.result is None else answer.result

    rows = [of(client) for client in ids]
    results: ClientResult = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    return results


def _changed(variables: Variables, masks: Masks, start: Variables) -> Variables:
    """Returns the model that a change of its parameters makes."""

    def added(change: Any, old: Any, mask: Any) -> Any:
        origin = np.where(mask, old, np.zeros((), old.dtype)).astype(np.float32)
        return (origin + change).astype(old.dtype)

    params = variables.get("params", {})
    exchange.check_structure(
        jax.tree.map(np.zeros_like, masks.get("params", {})),
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), params),
        "the change",
    )
    return variables | {
        "params": jax.tree.map(added, params, start["params"], masks["params"])
    }


def broken(like: ClientResult) -> ClientResult:
    """Returns a result in the place of none: zeros, and not finite.

    >>> broken(ClientResult((), (), np.float32(2), np.uint32(8), np.bool_(True))).loss
    array(nan, dtype=float32)
    """

    def empty(leaf: Any) -> np.ndarray:
        return np.zeros(leaf.shape, leaf.dtype)

    zeros: ClientResult = jax.tree.map(empty, like)
    nan: Any = np.full(like.loss.shape, np.nan, np.float32)
    return zeros._replace(loss=nan)
