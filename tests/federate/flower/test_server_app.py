"""Flower's grid as a network, with a grid that does as it is told."""

import warnings

import pytest

pytest.importorskip("flwr", reason="flwr is not installed: see tools/federate_env.sh")

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # flwr imports old names
    from flwr.app import Error, Message, RecordDict
    from flwr.supercore.task_identity import TaskIdentity

    from fedsparsify_jax.federate.flower.records import packed, unpacked
    from fedsparsify_jax.federate.flower.server_app import GridNetwork

from fedsparsify_jax.federate.network import Reply


@pytest.fixture(autouse=True)
def process_of_a_run():
    """Messages name the run and the node of the process that makes them."""
    TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1


class Grid:
    """Gives each message to a function of its node; None is no answer yet."""

    def __init__(self, nodes):
        self.nodes, self.sent = nodes, {}

    def get_node_ids(self):
        return list(self.nodes)

    def push_messages(self, messages):
        names = []
        for number, message in enumerate(messages):
            name = f"name-{number}"
            message.metadata.__dict__["_message_id"] = name
            self.sent[name] = message
            known = message.metadata.dst_node_id in self.nodes
            names.append(name if known else None)
        return names

    def pull_messages(self, names):
        replies = []
        for message in (self.sent[name] for name in names):
            content = self.nodes[message.metadata.dst_node_id](message)
            if content is not None:
                replies.append(Message(content, reply_to=message))
        return replies


def echo(message):
    return packed(unpacked(message.content)[0])


def test_nodes_are_in_the_order_of_their_numbers():
    assert GridNetwork(Grid({7: echo, 2: echo})).nodes() == [2, 7]


def test_every_node_answers_its_own_message():
    network = GridNetwork(Grid({7: echo, 2: echo}))
    assert network.ask({7: b"seven", 2: b""}, 5.0) == {7: Reply(b"seven"), 2: Reply()}
    assert network.ask({}, 5.0) == {}


def test_each_failure_is_a_line_and_the_others_answer():
    nodes = {
        1: echo,
        2: lambda _: Error(code=8, reason="ClientApp\nstopped"),
        3: lambda _: packed(b"", "no such data"),
        4: lambda _: RecordDict(),
        5: lambda _: None,
    }
    replies = GridNetwork(Grid(nodes)).ask(dict.fromkeys(range(1, 7), b"x"), 0.5)
    assert replies == {
        1: Reply(b"x"),
        2: Reply(error="Flower's error 8: ClientApp stopped"),
        3: Reply(error="no such data"),
        4: Reply(error="a message without 'content'"),
        5: Reply(error="no answer within 0.5 s"),
        6: Reply(error="Flower did not take the message"),
    }


def test_a_message_is_void_when_its_time_is_over():
    grid = Grid({1: echo})
    GridNetwork(grid).ask({1: b"x"}, 12.5)
    assert [message.metadata.ttl for message in grid.sent.values()] == [12.5]
