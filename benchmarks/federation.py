"""A federation over Flower on this machine: time of a round, bytes on the wire.

Claims: a round of three nodes takes at most 3 s beyond its training; the command ends
within 90 s; what nodes and server exchange is what ``message_bytes_up`` and
``message_bytes_down`` say, within 5 % and a constant a message.

Digits, 10 rounds to 90 % (the defaults), with the Python of .venv-federate
(``tools/federate_env.sh``); idle otherwise:

    PYTHON benchmarks/federation.py --out benchmarks/results-federation.json

Bytes are counted by a relay between the SuperNodes and the SuperLink: all that passes,
Flower's own messages and looks for messages among it. Those are counted beforehand,
over some idle seconds, and taken off.
"""

import argparse
import itertools
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import write_result
from rich.console import Console

from fedsparsify_jax.federate import trial
from fedsparsify_jax.federate.flower import commands, local
from fedsparsify_jax.federate.options import LocalConfig
from fedsparsify_jax.runner import TrainConfig, train

NODES = 3
GOALS = {"seconds_beyond_training": 3.0, "command_seconds": 90.0, "share": 0.05}


class Relay:
    """A relay of TCP connections that counts their bytes."""

    def __init__(self) -> None:
        self.up = self.down = 0
        self.to = 0  # port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            one, _ = self._listener.accept()
            other = socket.create_connection(("127.0.0.1", self.to))
            for pair in ((one, other, "up"), (other, one, "down")):
                threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, way: str) -> None:
        try:
            while content := source.recv(1 << 16):
                setattr(self, way, getattr(self, way) + len(content))
                sink.sendall(content)
        except OSError:
            pass
        for one in (source, sink):
            one.close()

    def counts(self) -> tuple[float, int, int]:
        return time.monotonic(), self.up, self.down


def behind(relay: Relay) -> None:
    """Sends the nodes of all federations through a relay."""
    start = commands.supernode

    def through(address: str, *words: Any, **options: Any) -> list[str]:
        relay.to = int(address.rpartition(":")[2])
        return start(f"127.0.0.1:{relay.port}", *words, **options)

    commands.supernode = through


def idle_rate(relay: Relay, directory: Path, seconds: float) -> tuple[float, float]:
    """Bytes a second, up and down, of nodes that have nothing to do."""
    settings = [{"client": number} for number in range(NODES)]
    with local.federation(directory, settings):
        time.sleep(2.0)
        before = relay.counts()
        time.sleep(seconds)
        after = relay.counts()
    passed = after[0] - before[0]
    return (after[1] - before[1]) / passed, (after[2] - before[2]) / passed


def line(messages: list[float], wire: list[float]) -> dict[str, float]:
    """The least squares of bytes on the wire: a factor, and a constant a message."""
    x, y = np.array(messages) / NODES, np.array(wire) / NODES
    factor, constant = np.polyfit(x, y, 1)
    return {"factor": round(float(factor), 4), "constant": round(float(constant))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    relay, quiet = Relay(), Console(quiet=True)
    behind(relay)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        idle = idle_rate(relay, work / "idle", 20.0)
        marks = [relay.counts()]

        def meanwhile(federation: local.Federation) -> None:
            path = work / "run" / "metrics.jsonl"
            rounds = path.read_text().count("\n") if path.exists() else 0
            while len(marks) <= rounds:
                marks.append(relay.counts())

        start = time.monotonic()
        config = LocalConfig(nodes=NODES, rounds=options.rounds, out=work / "run")
        trial.train(config, quiet, meanwhile)
        whole = time.monotonic() - start
        alone = TrainConfig(
            num_clients=NODES, rounds=options.rounds, out=work / "alone"
        )
        train(alone, quiet)
        rows, simulated = (
            trial.records(work / run / "metrics.jsonl") for run in ("run", "alone")
        )
    seconds = statistics.median(row["seconds"] for row in rows[1:])
    training = statistics.median(row["seconds"] for row in simulated[1:])
    ways = {}
    for place, way in ((1, "up"), (2, "down")):
        pairs = list(itertools.pairwise(marks[1:]))
        wire = [b[place] - a[place] - idle[place - 1] * (b[0] - a[0]) for a, b in pairs]
        sent = [row[f"message_bytes_{way}"] for row in rows[1:]]
        ways[way] = line(sent, wire) | {
            "messages": sent,
            "wire": [round(w) for w in wire],
        }
    result = {
        "nodes": NODES,
        "rounds": options.rounds,
        "command_seconds": round(whole, 1),
        "round_seconds": round(seconds, 2),
        "training_seconds": round(training, 3),
        "seconds_beyond_training": round(seconds - training, 2),
        "idle_bytes_a_second": [round(rate) for rate in idle],
        "bytes": ways,
        "goals": GOALS,
    }
    print(result)
    if options.out:
        write_result(options.out, result)


if __name__ == "__main__":
    main()
