import pytest

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import references
from fedsparsify_jax.federate.network import Loopback, Reply


def refusing(message):
    raise InputError("no such round: 7")


@pytest.fixture
def network():
    return Loopback({5: bytes.upper, 2: bytes.lower, 9: refusing})


def test_each_node_answers_its_own_message(network):
    replies = network.ask({5: b"Ab", 2: b"Cd"}, 1.0)
    assert replies == {5: Reply(b"AB"), 2: Reply(b"cd")}


def test_a_refusal_is_the_error_of_the_reply(network):
    assert network.ask({9: b""}, 1.0) == {9: Reply(error="no such round: 7")}


def test_a_mistake_in_a_node_is_not_hidden():
    network = Loopback({1: lambda message: message[100]})
    with pytest.raises(IndexError):
        network.ask({1: b"short"}, 1.0)


def test_a_node_that_is_gone_is_absent_until_it_comes_back(network):
    network.disconnect(5)
    assert network.nodes() == [2, 9]
    assert network.ask({5: b"a"}, 1.0) == {}
    network.connect(5)
    assert network.nodes() == [5, 2, 9]
    assert network.ask({5: b"a"}, 1.0) == {5: Reply(b"A")}


def test_failures_come_in_their_order_and_then_end(network):
    network.fail(5, "first")
    network.fail(5, "second")
    replies = [network.ask({5: b"a"}, 1.0)[5] for _ in range(3)]
    assert replies == [Reply(error="first"), Reply(error="second"), Reply(b"A")]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("math", "is not module:function"),
        (":sqrt", "is not module:function"),
        ("no.such.module:f", "cannot import no.such.module:f"),
        ("math:root", "cannot import math:root"),
        ("math:pi", "math:pi is not a function"),
    ],
)
def test_a_name_that_is_no_function_is_refused(reference, words):
    with pytest.raises(InputError, match=words):
        references.load(reference)
