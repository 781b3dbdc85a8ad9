"""The sites of a federation as its server sees them, and the server's run."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console

from fedsparsify_jax.deploy.known import Known
from fedsparsify_jax.engine.records import ClientResult
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.federate import leaves, running, server
from fedsparsify_jax.federate.clients import Broadcast, Traffic
from fedsparsify_jax.federate.collecting import Collected, collected
from fedsparsify_jax.federate.nvflare.arrays import (
    MORE,
    Content,
    bits,
    flat,
    message_of,
    model_of,
)
from fedsparsify_jax.federate.plan import envelope_of, plan_for
from fedsparsify_jax.federate.results import Arrived, result_of
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.process.signals import Stop


class Call(NamedTuple):
    """A message to the clients of a cohort."""

    cohort: Sequence[int]
    content: Content


AskFn = Callable[[Call], Mapping[int, Content]]
"""A call to the answers that came."""


class Sites:
    """The clients of a federation, all of which are asked the same.

    They are `Members`, and collect uploads. Every message has the plan, so that a site
    which was started anew needs nothing else.

    Args of the constructor:
      ask: them.
      names: of the sites; the first is client 0.
      plan: of the federation, as facts.
      note: told what goes wrong, a line each.
    """

    def __init__(
        self,
        ask: AskFn,
        names: Sequence[str],
        plan: Mapping[str, Any],
        note: Callable[[str], None],
    ):
        self._ask, self._names, self._note = ask, names, note
        self._facts = {"sites": list(names), "plan": dict(plan)}
        self.sizes: dict[int, int] = {}
        self.known = Known()
        self.traffic: dict[int, Traffic] = {}

    def join(self) -> None:
        """Asks all sites how many examples they have.

        Raises:
          InputError: if one of them cannot take part, or does not say.
        """
        everybody = range(len(self._names))
        call = Call(everybody, Content({MORE: bits(b"join")}, self._facts))
        answers = self._ask(call)
        for client in everybody:
            facts = answers[client].facts if client in answers else {}
            size = facts.get("examples")
            if type(size) is not int or size < 1:
                reason = facts.get("error", "it does not say how many examples it has")
                raise InputError(f"{self._names[client]} cannot join: {reason}")
            self.sizes[client] = size

    def entries(self, cohort: int) -> int:
        return cohort

    def __call__(
        self, ids: np.ndarray, sizes: np.ndarray, sent: Broadcast, like: ClientResult
    ) -> Collected:
        server_state = (
            leaves.write(sent.server) if jax.tree.leaves(sent.server) else b""
        )
        cohort: list[int] = ids.tolist()
        facts = {
            "round": sent.round,
            "longest": max(self.sizes.values()),
            "merged": {str(client): self.known.merged(client) for client in cohort},
        }
        arrays = flat(sent.variables, sent.masks, server_state)
        answers = self._ask(Call(cohort, Content(arrays, self._facts | facts)))
        self.traffic[sent.round] = _traffic(answers)
        read = {
            client: self._arrived(client, answers[client], sent, like)
            for client in cohort
            if client in answers
        }
        for client in cohort:
            if client not in read:
                self._note(f"{self._names[client]}: no answer")
        return collected(ids, sizes, read, like)

    def _arrived(
        self, client: int, content: Content, sent: Broadcast, like: ClientResult
    ) -> Arrived:
        """Returns an upload; one that is broken is noted."""
        try:
            if "error" in content.facts:
                raise InputError(str(content.facts["error"]))
            if content.facts.get("round") != sent.round:
                raise InputError(f"it does not answer round {sent.round}")
            upload = model_of(content.arrays, like.upload.variables, like.upload.masks)
            return result_of(upload, message_of(content.arrays, MORE), sent, like)
        except InputError as error:
            self._note(f"{self._names[client]}: {error}")
            return Arrived(None, finite=False)


def _traffic(answers: Mapping[int, Content]) -> Traffic:
    """Returns the bytes of a round, as the filters at both ends have counted them."""

    def total(name: str) -> int:
        numbers = [answer.facts.get(name) for answer in answers.values()]
        return sum(number for number in numbers if type(number) is int)

    return Traffic(up=total("bytes_up"), down=total("bytes_down"))


def serve(
    ask: AskFn,
    config: TrainConfig,
    names: Sequence[str],
    own_data: bool,
    console: Console,
) -> dict[str, Any]:
    """Trains a model with sites, and writes its run directory.

    Args:
      ask: the sites.
      config: the options, with `out`.
      names: of the sites.
      own_data: whether they have data of their own.
      console: where progress goes.

    Returns:
      The content of ``summary.json``.

    Raises:
      InputError: one line that says what is wrong and what to do.
    """
    config, dataset, parts = running.prepared(checked(config), own_data)
    if config.num_clients != len(names):
        raise InputError(
            f"the federation has {counted(config.num_clients or 0, 'client')} and "
            f"{counted(len(names), 'site')}: it takes as many"
        )
    plan = envelope_of(plan_for(config, dataset)).facts
    sites = Sites(
        ask, names, plan, lambda line: console.print(f"note: {line}", soft_wrap=True)
    )
    sites.join()
    assembly = running.assembly_of(config, dataset, parts, sites.sizes)
    return running.run(config, assembly, sites, sites, console, Stop(at_once=True))


def checked(config: TrainConfig) -> TrainConfig:
    """Returns the resolved options of a federation over NVFlare.

    Raises:
      InputError: for an option that does not go with it.
    """
    config = server.checked(config)
    if config.encrypted:
        raise InputError("--encrypted goes with fedsparsify federate local")
    if config.upload_compression != "none":
        raise InputError(
            "--upload-compression goes with fedsparsify federate local: over NVFlare "
            "whole models are uploaded, which other filters understand"
        )
    return config
