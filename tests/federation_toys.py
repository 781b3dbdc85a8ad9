"""Nodes and servers of toy federations, which processes of tests load by name."""

import hashlib
import json
import time
from pathlib import Path

import numpy as np

from fedsparsify_jax.errors import InputError

BIG = 60_000_000


def counting(settings):
    """Answers with its name and a running number; some messages are special."""
    number = 0

    def answer(message):
        nonlocal number
        number += 1
        if message == b"refuse":
            raise InputError("this node has no such data: ask another")
        if message == b"crash":
            raise ValueError("two\nlines")
        if message == b"slow":
            start = time.monotonic()
            time.sleep(0.5)
            return f"{start} {time.monotonic()}".encode()
        if message == b"forever":
            time.sleep(600)
        return f"{settings['name']} {number} ".encode() + message

    return answer


def digesting(settings):
    """Answers with a digest of the message, and the message backwards."""
    return lambda message: hashlib.sha256(message).digest() + message[::-1]


def unable(settings):
    raise InputError("no data at /nowhere: mount the disk")


def large(network, settings):
    """Sends nothing, one byte and 60 MB; writes the sizes of what came back whole."""
    nodes = _all(network, settings)
    sizes = []
    for size in (0, 1, BIG):
        message = np.random.default_rng(size).bytes(size)
        right = hashlib.sha256(message).digest() + message[::-1]
        replies = network.ask(dict.fromkeys(nodes, message), 120.0)
        sizes.append([len(r.content) for r in replies.values() if r.content == right])
    _write(settings, sizes)


def asking(network, settings):
    """Sends each of some messages to all nodes of the time, and writes the replies."""
    _all(network, settings)
    rounds = []
    for text in settings["messages"].split():
        start = time.monotonic()
        messages = dict.fromkeys(network.nodes(), text.encode())
        replies = network.ask(messages, float(settings["timeout"]))
        rounds.append(
            {
                "replies": sorted(
                    [r.content.decode(), r.error] for r in replies.values()
                ),
                "seconds": time.monotonic() - start,
            }
        )
        _write(settings, rounds)


def refusing(network, settings):
    raise InputError("the cohort needs 9 nodes: there are 2")


def _all(network, settings):
    """Waits until all nodes are there."""
    while len(nodes := network.nodes()) < settings["nodes"]:
        time.sleep(0.1)
    return nodes


def _write(settings, content):
    path = Path(settings["out"])
    path.with_suffix(".part").write_text(json.dumps(content))
    path.with_suffix(".part").replace(path)
