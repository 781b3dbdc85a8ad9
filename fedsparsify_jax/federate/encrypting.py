"""Rounds whose uploads the server cannot read: it adds them, a key holder decrypts.

The server then merges one upload: the clients' mean, under the masks of the round, or
under those that it elects from the clients' masks, which travel in plaintext. Masks,
losses and numbers of examples are seen by the server (``docs/encryption.md``).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from fedsparsify_jax import masks as mask_algebra
from fedsparsify_jax.deploy import encrypted, exchange, wire
from fedsparsify_jax.engine.records import ClientResult
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import cipher, kinds, leaves
from fedsparsify_jax.federate.clients import Broadcast, Clients
from fedsparsify_jax.federate.collecting import Collected
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.federate.results import broken, check, more_of
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.types import Masks, RoundInfo, Variables

MEANS = (
    "fedavg",
    "fedprox",
    "fedopt",
    "fedsparsify-global",
    "fedsparsify-local",
    "fedsparsify-plus",
    "random-pruning",
    "one-shot",
    "static",
    "synflow",
)
"""Algorithms whose server needs the mean of the clients' models, and no more."""
VOTED = "fedsparsify-local"
"""Algorithms whose clients' masks are voted on."""


def check_options(config: TrainConfig) -> None:
    """Refuses what cannot be merged from an encrypted sum.

    Raises:
      InputError: naming the options.
    """
    if config.algorithm not in MEANS:
        raise InputError(
            f"--encrypted does not go with {config.algorithm}, whose server needs more "
            f"than the mean of the models: it goes with {', '.join(MEANS)}"
        )
    if config.merge not in (None, "mean"):
        raise InputError(
            f"--encrypted does not go with --merge {config.merge}: of encrypted models "
            "there is a sum, and so the mean"
        )
    others = config.upload_compression != "none" or config.wire_values != "float32"
    if others or config.criterion not in (None, "magnitude"):
        raise InputError(
            "--encrypted does not go with --upload-compression, --wire-values or "
            "--criterion: what is encrypted is the model, as it is"
        )
    if config.dp_clip is not None and config.dp_unit == "client":
        raise InputError(
            "--encrypted does not go with --dp-clip: the server clips uploads, and it "
            "cannot read these"
        )
    if config.vote_rule == "none":
        raise InputError(
            "--encrypted does not go with --vote-rule none: under the masks of all "
            "clients together there would be little that is not sent"
        )


class EncryptedMean:
    """Collects the mean of the clients' models, which come encrypted.

    Args of the constructor:
      clients: of the federation.
      config: resolved.
    """

    def __init__(self, clients: Clients, config: TrainConfig):
        self._clients = clients
        self._votes = config.algorithm == VOTED
        self._rule = config.vote_rule or "authors"

    def entries(self, cohort: int) -> int:
        return 1

    def __call__(
        self, ids: np.ndarray, sizes: np.ndarray, sent: Broadcast, like: ClientResult
    ) -> Collected:
        of = dict(zip(ids.tolist(), map(int, sizes), strict=True))
        facts = {"encrypted": True, "vote": self._votes, "clients": len(of)}
        shares = {client: size / sum(of.values()) for client, size in of.items()}

        # Tune.
        answers = self._clients.send(
            of, sent, lambda client: facts | {"share": shares[client]}
        )
        trained = self._trained(answers, sent, like)

        # Vote, if clients have masks of their own; add, and have the sum decrypted.
        masks = sent.masks
        if self._votes:
            letters = {client: answers[client] for client in trained}
            masks, sums = self._elected(letters, shares, sent, like)
        else:
            sums = {c: answers[c].parts.get(cipher.SUM, b"") for c in trained}
        mean, merged = self._mean(sums, masks, sent, len(of))

        # The server merges one upload in the place of all.
        counted = sum(of[client] for client in merged)
        upload = like.upload._replace(variables=mean, masks=masks)
        loss = sum(float(trained[c][0]) * of[c] / counted for c in merged)
        one = broken(like)
        if merged:
            scalars: dict[str, Any] = {
                "loss": np.float32(loss),
                "finite": np.bool_(True),
            }
            one = one._replace(upload=upload, **scalars)
        return Collected(
            ids=np.zeros(1, np.int32),
            sizes=np.array([counted], np.int32),
            arrived=np.array([bool(merged)]),
            results=jax.tree.map(lambda leaf: np.asarray(leaf)[None], one),
            merged=merged,
            report=functools.partial(
                _reported,
                ids=ids.tolist(),
                answered=len(answers),
                bytes_up={client: int(more[1]) for client, more in trained.items()},
                merged=len(merged),
            ),
        )

    def _trained(
        self, answers: Mapping[int, Envelope], sent: Broadcast, like: ClientResult
    ) -> dict[int, Any]:
        """Returns what clients with whole models say beside them, loss first."""
        trained = {}
        for client, letter in answers.items():
            try:
                check(client, letter, sent.round)
                message = letter.parts.get("more", b"")
                more = leaves.read(message, more_of(like), "the upload")
                if not exchange.is_finite(more) or not letter.fact("finite", bool):
                    raise InputError("its model is not finite")
            except InputError as error:
                self._clients.note(client, error)
                continue
            trained[client] = more
        return trained

    def _elected(
        self,
        answers: Mapping[int, Envelope],
        shares: Mapping[int, float],
        sent: Broadcast,
        like: ClientResult,
    ) -> tuple[Masks, dict[int, bytes]]:
        """Returns the elected masks, and what clients have encrypted under them."""
        ballots = {}
        for client, letter in answers.items():
            try:
                ballots[client] = cipher.masks_in(letter.parts, like.upload.masks)
            except InputError as error:
                self._clients.note(client, error)
        if not ballots:
            return sent.masks, {}
        votes = jax.tree.map(lambda *masks: np.stack(masks), *ballots.values())
        elected = jax.device_get(mask_algebra.majority_vote(votes, rule=self._rule))
        parts = {cipher.MASKS: wire.encode(jax.tree.map(np.packbits, elected))}
        letters = {
            client: Envelope(
                kinds.ENCRYPT,
                {
                    "round": sent.round,
                    "clients": len(shares),
                    "share": shares[client],
                },
                parts,
            )
            for client in ballots
        }
        replies = self._clients.ask(letters)
        return elected, {
            client: letter.parts.get(cipher.SUM, b"")
            for client, letter in replies.items()
            if letter.kind == kinds.ENCRYPTED
        }

    def _mean(
        self, sums: dict[int, bytes], masks: Masks, sent: Broadcast, cohort: int
    ) -> tuple[Variables, list[int]]:
        """Returns the mean, and the clients in it; none without the key holder."""
        clients = self._clients
        nobody: tuple[Variables, list[int]] = (sent.variables, [])
        terms = encrypted.terms_of(
            sent.variables, masks, round=sent.round, clients=cohort
        )
        for client in list(sums):
            try:
                encrypted.add([sums[client]], clients.public, terms)
            except InputError as error:
                clients.note(client, error)
                del sums[client]
        if not sums or clients.holder is None:
            return nobody
        try:
            total = encrypted.add(
                sums.values(), clients.public, terms, clients=len(sums)
            )
            facts = cipher.facts_of(terms) | {"clients": len(sums)}
            letter = Envelope(kinds.DECRYPT, facts, {cipher.SUM: total})
            answers = clients.ask({clients.holder: letter})
            if clients.holder not in answers:
                return nobody
            like = np.zeros(terms.count)
            numbers = leaves.read(
                answers[clients.holder].parts.get(cipher.NUMBERS, b""), like, "the sum"
            )
            mean = encrypted.unpack(numbers, masks, sent.variables)
        except InputError as error:
            clients.note(clients.holder, error)
            return nobody
        return mean, list(sums)


def _reported(
    info: RoundInfo,
    *,
    ids: Sequence[int],
    answered: int,
    bytes_up: Mapping[int, int],
    merged: int,
) -> RoundInfo:
    """Returns the report of the clients of a round whose merge had one upload."""
    numbers: dict[str, Any] = {
        "cohort": np.array(ids, np.int32),
        "bytes_up": np.array([bytes_up.get(c, 0) for c in ids], np.uint32),
        "bytes_down": np.repeat(np.asarray(info.bytes_down)[:1], len(ids)),
        "merged": np.int32(merged),
        "dropped": np.int32(len(ids) - answered),
        "rejected": np.int32(answered - merged),
    }
    return info._replace(**numbers)
