"""The seam between a federation and its network: bytes out to nodes, bytes back.

A server asks nodes and gets a `Reply` of each; a node is an `Answer`, a function of
bytes. Flower is one `Network` (`fedsparsify_jax.federate.flower`), and `Loopback` is
another, without processes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from fedsparsify_jax.errors import InputError

Answer = Callable[[bytes], bytes]
"""A node's side: the content of a message -> that of the reply.

It raises `InputError` for a message that it refuses; its line becomes `Reply.error`.
"""


class Reply(NamedTuple):
    """An answer of a node, or the reason why there is none.

    Attributes:
      content: the bytes of the answer; empty after an error.
      error: one line; empty if all is well.
    """

    content: bytes = b""
    error: str = ""


class Network(Protocol):
    """Nodes that can be asked, by number."""

    def nodes(self) -> Sequence[int]:
        """Returns the numbers of the nodes that are connected now."""

    def ask(self, messages: Mapping[int, bytes], timeout: float) -> Mapping[int, Reply]:
        """Sends each node its message, and waits for all answers or the timeout.

        Args:
          messages: a node's number -> the content for it.
          timeout: seconds.

        Returns:
          A reply for each node. One that did not answer has a reply with an error, or
          is absent.
        """


def replied(answer: Answer, message: bytes) -> Reply:
    """Returns a node's reply, with the line of an `InputError` as its error.

    >>> replied(bytes.upper, b"weights")
    Reply(content=b'WEIGHTS', error='')
    """
    try:
        return Reply(answer(message))
    except InputError as error:
        return Reply(error=str(error))


class Loopback:
    """A network inside this process, whose nodes answer one after the other.

    Example:
      >>> network = Loopback({3: bytes.upper, 5: bytes.lower})
      >>> network.disconnect(5)
      >>> network.ask({3: b"Weights", 5: b"Weights"}, timeout=1.0)
      {3: Reply(content=b'WEIGHTS', error='')}
      >>> network.fail(3, "out of memory")
      >>> network.ask({3: b"Weights"}, timeout=1.0)
      {3: Reply(content=b'', error='out of memory')}
    """

    def __init__(self, answers: Mapping[int, Answer]):
        self._answers = dict(answers)
        self._gone: set[int] = set()
        self._errors: dict[int, list[str]] = {}

    def nodes(self) -> Sequence[int]:
        return [node for node in self._answers if node not in self._gone]

    def ask(self, messages: Mapping[int, bytes], timeout: float) -> Mapping[int, Reply]:
        connected = set(self.nodes())
        return {
            node: self._reply(node, message)
            for node, message in messages.items()
            if node in connected
        }

    def disconnect(self, node: int) -> None:
        """Takes a node off the network: it is not listed, and does not answer."""
        self._gone.add(node)

    def connect(self, node: int) -> None:
        """Brings a node back."""
        self._gone.discard(node)

    def fail(self, node: int, error: str) -> None:
        """Makes a node's next answer an error; called twice, the next two."""
        self._errors.setdefault(node, []).append(error)

    def _reply(self, node: int, message: bytes) -> Reply:
        if errors := self._errors.get(node):
            return Reply(error=errors.pop(0))
        return replied(self._answers[node], message)
