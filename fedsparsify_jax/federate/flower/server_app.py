"""The server's side in Flower: its grid of nodes as a `Network`."""

import time
from collections.abc import Iterable, Mapping, Sequence

from flwr.app import Context, Message
from flwr.serverapp import Grid, ServerApp

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import references
from fedsparsify_jax.federate.flower.records import packed, unpacked
from fedsparsify_jax.federate.network import Reply

SERVE = "fedsparsify_jax.federate.server:serve"
"""The function that is a run's server: ``(network, settings) -> None``."""
SERVER = "server"
"""The key of the run's configuration that names another one."""
_POLL = 0.2
"""Seconds between two looks for replies; `Grid.send_and_receive` waits 3."""

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Runs the server of a federation over the nodes of a grid."""
    settings = dict(context.run_config)
    serve = references.load(str(settings.pop(SERVER, SERVE)))
    serve(GridNetwork(grid), settings)


class GridNetwork:
    """A `Network` of the nodes that are connected to a SuperLink."""

    def __init__(self, grid: Grid):
        self._grid = grid

    def nodes(self) -> Sequence[int]:
        return sorted(self._grid.get_node_ids())

    def ask(self, messages: Mapping[int, bytes], timeout: float) -> Mapping[int, Reply]:
        if not messages:
            return {}
        deadline = time.monotonic() + timeout
        waiting = self._send(messages, timeout)
        replies = {
            node: Reply(error="Flower did not take the message")
            for node in messages
            if node not in waiting.values()
        }
        while waiting and time.monotonic() < deadline:
            for message in self._grid.pull_messages(list(waiting)):
                if (name := message.metadata.reply_to_message_id) in waiting:
                    replies[waiting.pop(name)] = reply_of(message)
            if waiting:
                time.sleep(_POLL)
        late = Reply(error=f"no answer within {timeout:g} s")
        return replies | dict.fromkeys(waiting.values(), late)

    def _send(self, messages: Mapping[int, bytes], timeout: float) -> dict[str, int]:
        """Sends the messages; returns each one's name in Flower and its node."""
        nodes = list(messages)
        names: Iterable[str | None] = self._grid.push_messages(
            [
                Message(
                    content=packed(messages[node]),
                    message_type="train",
                    dst_node_id=node,
                    ttl=timeout,  # a node that is late does not begin any more
                )
                for node in nodes
            ]
        )
        pairs = zip(names, nodes, strict=True)
        return {name: node for name, node in pairs if name is not None}


def reply_of(message: Message) -> Reply:
    """Returns a message of a node as a `Reply`, with Flower's errors in one line."""
    if message.has_error():
        code, reason = message.error.code, message.error.reason
        return Reply(error=str(InputError(f"Flower's error {code}: {reason}")))
    try:
        return Reply(*unpacked(message.content))
    except ValueError as error:
        return Reply(error=str(InputError(error)))
