"""The clients of a federation as its server sees them: who joined, what each sends.

Nodes come and go. A client is a number that a node gives when it joins, and stays the
same when it comes back as another node. What is asked of a node that was started anew
is asked again, once, with all that it lacks.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax

from fedsparsify_jax.deploy import exchange
from fedsparsify_jax.deploy.known import Known
from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.federate import envelope, kinds, leaves
from fedsparsify_jax.federate.envelope import Envelope
from fedsparsify_jax.federate.network import Network, Reply
from fedsparsify_jax.types import Masks, PyTree, Variables

PUBLIC = "public"
"""Part of the answer of the key holder, and of the message that begins."""
_PAUSE = 0.2
"""Seconds between two looks for nodes that have not come yet."""


class Broadcast(NamedTuple):
    """A round as it is sent out: host arrays."""

    round: int
    variables: Variables
    masks: Masks
    server: PyTree  # of the context; () unless clients read it


class Traffic(NamedTuple):
    """Bytes of a round."""

    up: int
    down: int


class Members(Protocol):
    """The clients of a federation that have joined, on whatever network.

    Attributes:
      sizes: examples of each.
      known: masks that clients have, and rounds that counted.
      traffic: bytes of the rounds that nobody has asked for yet.
    """

    sizes: dict[int, int]
    known: Known
    traffic: dict[int, Traffic]


class Clients:
    """The clients of a federation, behind a network.

    Args of the constructor:
      network: of the nodes.
      invitation: what a node is told when it joins.
      number: N, of all clients.
      form: of the messages.
      timeout: seconds that a round's answers are waited for.
      note: told what goes wrong, a line each.

    Attributes:
      sizes: examples of every client that has joined.
      known: masks that clients have, and rounds that counted.
      traffic: bytes of the rounds that nobody has asked for yet.
      holder: the client that has the secret key; None if nobody has.
      public: the public key.
    """

    def __init__(
        self,
        network: Network,
        invitation: Envelope,
        number: int,
        form: exchange.Exchange,
        timeout: float,
        note: Callable[[str], None],
    ):
        self._network, self._invitation = network, invitation
        self._number, self._form, self._timeout = number, form, timeout
        self._note = note
        self._nodes: dict[int, int] = {}  # node of a client
        self._refused: dict[int, int | None] = {}  # node to the client it would be
        self._silent: set[int] = set()  # clients without an answer, the last time
        self._has_begun = False
        self.sizes: dict[int, int] = {}
        self.known = Known()
        self.holder: int | None = None
        self.public = b""
        self.traffic: dict[int, Traffic] = {}
        self._round = 0

    def gather(self, wait: float) -> None:
        """Waits until all clients have joined.

        Args:
          wait: seconds at most.

        Raises:
          InputError: naming the clients that have not come.
        """
        end = time.monotonic() + wait
        while True:
            self._welcome()
            missing = sorted(set(range(self._number)) - set(self.sizes))
            if not missing:
                return
            if time.monotonic() > end:
                raise InputError(
                    f"{counted(len(missing), 'client')} of {self._number} did not join "
                    f"within {wait:g} s: {', '.join(map(str, missing[:10]))}"
                )
            time.sleep(_PAUSE)

    def begin(self, wait: float) -> None:
        """Tells all clients how long the largest one's data are; they compile.

        Args:
          wait: seconds at most; a round's answers may be wanted sooner than that.

        Raises:
          InputError: if one of them cannot begin.
        """
        self._has_begun = True
        replies = self._ask(self._nodes, self._beginning(), wait)
        for client in sorted(self._nodes):
            reply = replies.get(client, Reply(error="no answer"))
            if reply.error:
                raise InputError(f"client {client} cannot begin: {reply.error}")

    def send(
        self,
        ids: Iterable[int],
        sent: Broadcast,
        facts: Callable[[int], Mapping[str, Any]] = lambda client: {},
    ) -> dict[int, Envelope]:
        """Sends a round to its clients, and returns the answers that came in time.

        Args:
          ids: of the cohort.
          sent: the round.
          facts: client to what else its message says.
        """
        self._round = sent.round
        self._welcome()
        cohort = [client for client in ids if client in self._nodes]
        answers = self.ask({c: self._task(c, sent, facts(c)) for c in cohort})
        lacking = {c: a.facts.get("what") for c, a in answers.items() if _lacks(a)}
        if lacking:
            self._tell([c for c, what in lacking.items() if what == kinds.JOIN])
            whole = {c: self._task(c, sent, facts(c), whole=True) for c in lacking}
            answers = {c: a for c, a in answers.items() if c not in lacking}
            answers |= self.ask(whole)
        for client in answers:
            self.known.put(client, sent.masks)
        return answers

    def ask(self, letters: Mapping[int, Envelope]) -> dict[int, Envelope]:
        """Asks clients, in a round, and returns the answers that came in time."""
        there = {c: letter for c, letter in letters.items() if c in self._nodes}
        return self._read(self._ask(there, there))

    def note(self, client: int, reason: object) -> None:
        """Says what is wrong with a client's answer."""
        self._note(f"client {client}: {reason}")

    def _read(self, replies: Mapping[int, Reply]) -> dict[int, Envelope]:
        """Returns the answers; what is none is an envelope without a kind."""
        answers = {}
        for client, reply in replies.items():
            if reply.error:
                self.note(client, reply.error)
                continue
            try:
                answers[client] = envelope.read(reply.content)
            except InputError as error:
                self.note(client, error)
                answers[client] = Envelope("", {})
        return answers

    def _tell(self, clients: Iterable[int]) -> None:
        """Tells nodes that were started anew what precedes the first round."""
        clients = list(clients)
        self._ask(clients, dict.fromkeys(clients, self._invitation))
        self._ask(clients, self._beginning())

    def _task(
        self,
        client: int,
        sent: Broadcast,
        more: Mapping[str, Any],
        *,
        whole: bool = False,
    ) -> Envelope:
        """Returns the message of a round to one client."""
        previous = None if whole else self.known.of(client)
        parts = exchange.write_model(self._form, sent.variables, sent.masks, previous)
        if jax.tree.leaves(sent.server):
            parts["server"] = leaves.write(sent.server)
        merged, oldest = self.known.merged(client)
        facts = {
            **more,
            "round": sent.round,
            "merged": merged,
            "oldest": oldest,
            "whole": whole or previous is None,
        }
        return Envelope(kinds.TRAIN, facts, parts)

    def _beginning(self) -> dict[int, Envelope]:
        longest = max(self.sizes.values())
        parts = {PUBLIC: self.public} if self.public else {}
        begin = Envelope(kinds.BEGIN, {"longest": longest}, parts)
        return dict.fromkeys(self._nodes, begin)

    def _welcome(self) -> None:
        """Lets nodes join that are new, and forgets those that are gone."""
        there = set(self._network.nodes())
        self._nodes = {c: node for c, node in self._nodes.items() if node in there}
        # A node that is gone may be listed for a while, beside the one that came back.
        refused = {n for n, c in self._refused.items() if c not in self._silent}
        new = there - set(self._nodes.values()) - refused
        if not new:
            return
        message = envelope.write(self._invitation)
        replies = self._network.ask(dict.fromkeys(new, message), self._timeout)
        for node, reply in sorted(replies.items()):
            self._refused.pop(node, None)
            try:
                self._enrol(node, reply)
            except InputError as error:
                self._note(f"a node is left out: {error}")
                if not reply.error:
                    self._refused.setdefault(node, None)
        late = [c for c in self._nodes if self._nodes[c] in new]
        if late and self._has_begun:
            begin = self._beginning()
            self._ask(late, {c: begin[c] for c in late})

    def _enrol(self, node: int, reply: Reply) -> None:
        """Notes which client a node is.

        Raises:
          InputError: if it is none of this federation, or a second one.
        """
        if reply.error:
            raise InputError(reply.error)
        letter = envelope.read(reply.content)
        client, size = letter.fact("client", int), letter.fact("examples", int)
        if not 0 <= client < self._number or size < 1:
            raise InputError(
                f"it says that it is client {client} with {size} examples: clients of "
                f"this federation are 0 to {self._number - 1}"
            )
        if client in self._nodes and client not in self._silent:
            self._refused[node] = client
            raise InputError(f"client {client} is there already")
        if self.sizes.get(client, size) != size:
            raise InputError(
                f"client {client} had {self.sizes[client]} examples and has {size} now"
            )
        if PUBLIC in letter.parts and self.holder in (None, client):
            self.holder, self.public = client, letter.parts[PUBLIC]
        self._nodes[client], self.sizes[client] = node, size

    def _ask(
        self,
        clients: Iterable[int],
        letters: Mapping[int, Envelope],
        wait: float | None = None,
    ) -> dict[int, Reply]:
        """Asks clients; those that do not answer have a reply that says so."""
        wait = self._timeout if wait is None else wait
        nodes = {client: self._nodes[client] for client in clients}
        messages = {
            node: envelope.write(letters[client]) for client, node in nodes.items()
        }
        answers = self._network.ask(messages, wait) if messages else {}
        nothing = Reply(error="no answer")
        replies = {c: answers.get(node, nothing) for c, node in nodes.items()}
        for client, reply in replies.items():
            (self._silent.add if reply.error else self._silent.discard)(client)
        before = self.traffic.get(self._round, Traffic(0, 0))
        self.traffic[self._round] = Traffic(
            up=before.up + sum(len(r.content) for r in replies.values()),
            down=before.down + sum(map(len, messages.values())),
        )
        return replies


def _lacks(letter: Envelope) -> bool:
    return letter.kind == kinds.LACKS
