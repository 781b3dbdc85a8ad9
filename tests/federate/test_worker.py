"""A worker in a process of its own, and what it does to its socket."""

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import fedsparsify_jax
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.federate import forwarding, worker

TESTS = Path(__file__).parents[1]
PATHS = os.pathsep.join(map(str, (Path(fedsparsify_jax.__file__).parents[1], TESTS)))
LIMIT = 30_000_000


def command(directory, answer="counting", **options):
    settings = directory / "settings.json"
    settings.write_text(json.dumps({"name": "north"}))
    options = {"socket": directory / "w.sock", "settings": settings} | options
    pairs = [word for name, value in options.items() for word in (f"--{name}", value)]
    module = ["-m", "fedsparsify_jax.federate.worker"]
    words = [sys.executable, *module, "--answer", f"federation_toys:{answer}", *pairs]
    return list(map(str, words))


def start(words, **options):
    environment = os.environ | {"PYTHONPATH": PATHS, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        words, env=environment, stderr=subprocess.PIPE, text=True, **options
    )


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def own_directory(factory):
    directory = factory.mktemp("w")
    directory.chmod(0o700)
    return directory


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The socket of a worker that all tests of this file share."""
    directory = own_directory(tmp_path_factory)
    with start(command(directory, limit=LIMIT)) as process:
        path = directory / "w.sock"
        wait_for(path.is_socket)
        yield str(path)
        process.terminate()
        process.communicate(timeout=30)


def number(path):
    """How many messages the worker has had."""
    name, number, _ = forwarding.ask(path, b"x")[0].split()
    assert name == b"north"
    return int(number)


def test_one_process_answers_all_messages(path):
    before = number(path)
    assert number(path) == before + 1


def test_empty_and_long_messages_come_whole(path):
    assert forwarding.ask(path, b"")[0].endswith(b" ")
    message = bytes(range(256)) * 80_000
    content, error = forwarding.ask(path, message)
    assert (error, content.endswith(message)) == ("", True)


def test_a_refusal_is_its_line(path):
    line = "this node has no such data: ask another"
    assert forwarding.ask(path, b"refuse") == (b"", line)


def test_an_unexpected_error_is_one_line_and_the_next_message_is_answered(path):
    assert forwarding.ask(path, b"crash") == (b"", "ValueError: two lines")
    assert number(path)


def test_a_message_above_the_limit_is_refused(path):
    line = "a message of 30,000,001 bytes; the limit is 30,000,000"
    assert forwarding.ask(path, bytes(LIMIT + 1)) == (b"", line)


def test_an_answer_above_the_limit_is_refused(path):
    content, error = forwarding.ask(path, bytes(LIMIT))
    assert (content, error.endswith("bytes is too long")) == (b"", True)


@pytest.mark.parametrize("part", [b"", b"\x00", struct.pack(">Q", 100) + b"half"])
def test_a_client_may_go_away_within_its_message(path, part):
    before = number(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
        client.sendall(part)
    assert number(path) == before + 1


def test_a_client_may_go_away_before_the_answer(path):
    before = number(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
        client.sendall(struct.pack(">Q", 4) + b"slow")
    assert number(path) == before + 2


def test_messages_are_answered_one_at_a_time(path):
    spans = []

    def ask():
        spans.append([float(t) for t in forwarding.ask(path, b"slow")[0].split()])

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (_, end), (start, later), (last, _) = sorted(spans)
    assert end <= start < later <= last


def test_only_its_user_reaches_the_socket(path):
    assert Path(path).stat().st_mode & 0o777 == 0o600


def test_a_second_worker_leaves_the_first_one_its_socket(path):
    process = start(command(Path(path).parent))
    _, error = process.communicate(timeout=60)
    line = f"worker: another worker answers at {path}: stop it first\n"
    assert (process.returncode, error) == (2, line)
    assert number(path)


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_within_an_answer_and_removes_the_socket(
    tmp_path_factory, name
):
    directory = own_directory(tmp_path_factory)
    path = directory / "w.sock"
    with start(command(directory)) as process:
        wait_for(path.is_socket)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.connect(str(path))
            client.sendall(struct.pack(">Q", 7) + b"forever")
            time.sleep(0.3)
            process.send_signal(name)
            assert process.wait(timeout=10) == 128 + name
            assert client.recv(1) == b""
        assert not path.exists()


def test_it_ends_with_the_process_that_started_it(tmp_path_factory):
    directory = own_directory(tmp_path_factory)
    path, log = directory / "w.sock", directory / "log"
    script = f"""
import pathlib, subprocess, sys, time
with open({str(log)!r}, "w") as log:
    subprocess.Popen({command(directory)!r}, stderr=log)
while not pathlib.Path({str(path)!r}).is_socket():
    time.sleep(0.05)
"""
    with start([sys.executable, "-c", script]) as process:
        process.communicate(timeout=60)
    line = "worker: the process that started this worker is gone\n"
    wait_for(lambda: log.read_text().endswith(line), 10)
    assert not path.exists()


def test_settings_that_do_not_do_are_one_line(tmp_path_factory):
    directory = own_directory(tmp_path_factory)
    process = start(command(directory, answer="unable"))
    _, error = process.communicate(timeout=60)
    line = "worker: no data at /nowhere: mount the disk\n"
    assert (process.returncode, error) == (2, line)
    assert not (directory / "w.sock").exists()


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_settings_are_an_object_of_json(tmp_path, text):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=r"settings"):
        worker.read_settings(tmp_path / "s.json")


def test_a_dead_workers_socket_is_replaced(tmp_path_factory):
    path = own_directory(tmp_path_factory) / "w.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    with worker.listening(path), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_the_sockets_directory_is_made_for_its_user_alone(tmp_path):
    path = tmp_path / "own" / "w.sock"
    with worker.listening(path):
        assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_may_enter_is_refused(tmp_path):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(InputError, match="directory of mode 700"):
        worker.listening(tmp_path / "open" / "w.sock")


def test_no_other_file_is_replaced(tmp_path_factory):
    path = own_directory(tmp_path_factory) / "w.sock"
    path.write_text("precious")
    with pytest.raises(InputError, match="is not a socket"):
        worker.listening(path)
    assert path.read_text() == "precious"


def test_a_path_that_the_system_cannot_take_is_refused(tmp_path):
    with pytest.raises(InputError, match="longer than 100 bytes"):
        worker.listening(tmp_path / ("long" * 30) / "w.sock")
