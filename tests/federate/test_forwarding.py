import ast
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest

from fedsparsify_jax.federate import forwarding


@pytest.fixture
def peer(tmp_path_factory):
    """A listener, and the path of its socket."""
    path = str(tmp_path_factory.mktemp("s") / "s")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()
        yield listener, path


def answering(listener, answer):
    """Accepts one client in a thread, and gives its request to a function."""

    def serve():
        connection, _ = listener.accept()
        with connection:
            answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_forwarding_needs_python_alone():
    tree = ast.parse(Path(forwarding.__file__).read_text("utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    names = {alias.name for node in imports for alias in node.names}
    assert names <= sys.stdlib_module_names
    assert not any(isinstance(node, ast.ImportFrom) for node in ast.walk(tree))


def test_a_request_is_a_length_and_bytes_and_an_answer_has_a_first_byte(peer):
    listener, path = peer
    requests = []

    def answer(connection):
        requests.append(connection.recv(100, socket.MSG_WAITALL))
        connection.sendall(b"\x00" + struct.pack(">Q", 4) + b"back")

    thread = answering(listener, lambda connection: answer(Short(connection, 8 + 3)))
    assert forwarding.ask(path, b"out") == (b"back", "")
    thread.join()
    assert requests == [b"\x00" * 7 + b"\x03out"]


class Short:
    """A connection that is read up to so many bytes."""

    def __init__(self, connection, length):
        self.connection, self.length = connection, length
        self.sendall = connection.sendall

    def recv(self, number, flags):
        return self.connection.recv(min(number, self.length), flags)


def test_an_error_comes_back_as_such(peer):
    listener, path = peer

    def answer(connection):
        assert forwarding.receive_message(connection, 10) == b"out"
        forwarding.send_answer(connection, b"", "no such round: 7")

    thread = answering(listener, answer)
    assert forwarding.ask(path, b"out") == (b"", "no such round: 7")
    thread.join()


@pytest.mark.parametrize("part", [b"", b"\x00", b"\x00" + struct.pack(">Q", 4) + b"b"])
def test_half_an_answer_is_none(peer, part):
    listener, path = peer

    def answer(connection):
        forwarding.receive_message(connection, 10)
        connection.sendall(part)

    thread = answering(listener, answer)
    with pytest.raises(OSError, match="went away before it answered"):
        forwarding.ask(path, b"out")
    thread.join()


def test_a_refusal_is_read_though_the_message_could_not_be_sent(peer):
    listener, path = peer
    message = bytes(20_000_000)  # more than a socket holds

    def answer(connection):
        with pytest.raises(ValueError, match="20,000,000 bytes; the limit is 1,000"):
            forwarding.receive_message(connection, 1000)
        forwarding.send_answer(connection, b"", "too long")

    thread = answering(listener, answer)
    assert forwarding.ask(path, message) == (b"", "too long")
    thread.join()


def test_a_worker_may_start_after_its_client(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("s") / "s")
    replies = []
    client = threading.Thread(target=lambda: replies.append(forwarding.ask(path, b"a")))
    client.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        listener.listen()

        def answer(connection):
            content = forwarding.receive_message(connection, 10)
            forwarding.send_answer(connection, content, "")

        answering(listener, answer).join()
    client.join()
    assert replies == [(b"a", "")]


def test_no_worker_is_one_line(tmp_path):
    with pytest.raises(OSError, match=r"no worker listens at .*: start it first"):
        forwarding.ask(str(tmp_path / "s"), b"a", wait=0.0)
