"""Collected uploads, which the server merges: those of all clients, in clear."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from fedsparsify_jax.engine.records import ClientResult
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate.clients import Broadcast, Clients
from fedsparsify_jax.federate.results import Arrived, arrived, stacked
from fedsparsify_jax.types import RoundInfo


class Collected(NamedTuple):
    """The arguments of `Halves.merge` for a round, on the host."""

    ids: np.ndarray  # [K] int32
    sizes: np.ndarray  # [K] int32
    arrived: np.ndarray  # [K] bool
    results: ClientResult  # [K, ...]
    merged: Sequence[int]  # clients whose uploads count, if any do
    # what the merge reports, to what is true of the clients
    report: Callable[[RoundInfo], RoundInfo] = lambda info: info


class Collect(Protocol):
    """Sends a round to its cohort, and collects what the server merges."""

    def entries(self, cohort: int) -> int:
        """Returns K of what is collected from so many clients."""

    def __call__(
        self, ids: np.ndarray, sizes: np.ndarray, sent: Broadcast, like: ClientResult
    ) -> Collected: ...


class Uploads:
    """Collects every client's upload.

    Args of the constructor:
      clients: of the federation.
    """

    def __init__(self, clients: Clients):
        self._clients = clients

    def entries(self, cohort: int) -> int:
        return cohort

    def __call__(
        self, ids: np.ndarray, sizes: np.ndarray, sent: Broadcast, like: ClientResult
    ) -> Collected:
        cohort = ids.tolist()
        answers: dict[int, Arrived] = {}
        for client, letter in self._clients.send(cohort, sent).items():
            try:
                answers[client] = arrived(client, letter, sent, like)
            except InputError as error:
                self._clients.note(client, error)
                answers[client] = Arrived(None, finite=False)
        return collected(ids, sizes, answers, like)


def collected(
    ids: np.ndarray,
    sizes: np.ndarray,
    answers: Mapping[int, Arrived],
    like: ClientResult,
) -> Collected:
    """Returns what the server merges, of the answers of a cohort.

    Args:
      ids: of the cohort.
      sizes: examples of its clients.
      answers: of those that answered.
      like: shapes of a result.
    """
    cohort = ids.tolist()
    return Collected(
        ids=ids,
        sizes=sizes,
        arrived=np.array([client in answers for client in cohort]),
        results=stacked(cohort, answers, like),
        merged=[client for client, answer in answers.items() if answer.finite],
    )
