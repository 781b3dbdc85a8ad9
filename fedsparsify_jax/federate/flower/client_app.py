"""A node's side in Flower: every message goes to the node's worker.

Flower starts a process for every message and imports this file in it, so it needs flwr
alone: projects contain a copy of it.
"""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedsparsify_jax.federate import forwarding
from fedsparsify_jax.federate.flower import records

SOCKET = "socket"
"""The key of a SuperNode's ``--node-config`` for the path of its worker's socket."""

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Returns the worker's answer to a message."""
    content, error = b"", ""
    path = context.node_config.get(SOCKET)
    if path is None:
        error = f"the node has no {SOCKET}: start it with --node-config '{SOCKET}=...'"
    else:
        try:
            body, _ = records.unpacked(message.content)
            content, error = forwarding.ask(str(path), body)
        except (OSError, ValueError) as problem:
            error = str(problem)
    return Message(content=records.packed(content, error), reply_to=message)
