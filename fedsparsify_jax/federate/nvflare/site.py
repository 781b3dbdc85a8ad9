"""A site: one client, which answers the models that its server sends out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.federate import kinds, leaves, own
from fedsparsify_jax.federate.client_program import ClientProgram, padded, program_of
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.federate.kept import Kept
from fedsparsify_jax.federate.node import Joined
from fedsparsify_jax.federate.nvflare.arrays import (
    MORE,
    Content,
    bits,
    flat,
    message_of,
    model_of,
)
from fedsparsify_jax.federate.plan import plan_of
from fedsparsify_jax.federate.results import more_of
from fedsparsify_jax.federate.worker import read_settings
from fedsparsify_jax.runner.messages import exchange_of
from fedsparsify_jax.types import ClientData


class Site:
    """The answers of a client.

    Args of the constructor:
      name: in NVFlare.
      data: path of a JSON file with options of `own.DATA` that name its own data, in
        which ``{site}`` is the name; None for a trial, where it takes its part of the
        server's data set.
      state: directory of what it keeps between rounds; None to keep it in memory.
    """

    def __init__(self, name: str, data: str | None = None, state: Path | None = None):
        self._name = name
        self._own = data and Path(data.replace("{site}", name))
        self._kept = Kept(state / name if state else None)
        self._number, self._longest = -1, 0
        self._joined: Joined | None = None
        self._program: ClientProgram | None = None
        self._data: ClientData | None = None

    def answer(self, content: Content) -> Content:
        """Returns the answer to a message; one to a bad message says why."""
        try:
            letter = Envelope("plan", content.facts)
            joined = self._join(letter)
            if "longest" not in content.facts:
                facts = {"examples": len(joined.dataset.train.y)}
                return Content({MORE: bits(b"joined")}, facts)
            self._begin(joined, letter.fact("longest", int))
            return self._train(content.arrays, letter)
        except InputError as error:
            return Content({MORE: bits(b"refused")}, {"error": str(error)})

    def _join(self, letter: Envelope) -> Joined:
        """Takes up the plan, the first time that it comes."""
        if self._joined is None:
            sites = letter.fact("sites", list)
            if self._name not in sites:
                raise InputError(f"the federation has no site {shown(self._name)}")
            number = sites.index(self._name)
            plan = plan_of(Envelope(kinds.JOIN, letter.fact("plan", dict)))
            data = read_settings(self._own) if self._own else {}
            config, dataset, model = own.loaded(number, data, plan)
            form = exchange_of(config)
            self._number = number
            self._joined = Joined(
                config=config, dataset=dataset, model=model, exchange=form
            )
        return self._joined

    def _begin(self, joined: Joined, longest: int) -> None:
        """Compiles, the first time that the largest client's examples are known."""
        if longest == self._longest:
            return
        examples = joined.dataset.train
        if longest < len(examples.y):
            raise InputError(
                f"the largest client is said to have {longest} examples: this site "
                f"has {len(examples.y)}"
            )
        self._data, self._longest = padded(examples, longest), longest
        self._program = program_of(joined.config, joined.dataset, joined.model, longest)
        self._kept.begin(self._program.first)

    def _train(self, arrays: Mapping[str, Any], letter: Envelope) -> Content:
        program, data = self._program, self._data
        assert program is not None and data is not None
        t, counted = letter.fact("round", int), letter.fact("merged", dict)
        sent = model_of(arrays, program.state.variables, program.state.masks)
        kept = self._kept.after(*counted.get(str(self._number), (0, 0)))
        server = message_of(arrays, MORE)
        result = program.train(self._number, t, sent, server, data, kept)
        self._kept.put(t, result.state)
        upload, more = result.upload, leaves.write(more_of(result))
        return Content(flat(upload.variables, upload.masks, more), {"round": t})
