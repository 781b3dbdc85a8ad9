"""One paper-scale FashionMNIST round: this library against other projects.

Claim: a complete FedSparsify-Global step (training + merge + purge + reporting) with
the clients sharded over one device a core takes at most 0.70 x a plain vmapped
single-device JAX FedAvg, 0.50 x FedJAX, 0.50 x pfl on 2 processes and 0.45 x Flower
with 2 workers. The others play plain FedAvg, the easier job.

Work of a round: 10 clients x 6,000 images of 28x28, the 118,282-parameter MLP, 4 local
epochs, batch 32, SGD 0.02. Every contestant is a program in `peers/` with the Python of
an environment of its own, made at the first run and kept. All are started, then they
take turns, round by round, while the rest waits for input; the first round, which
compiles or starts workers, is left out. The test accuracies after the same number of
rounds are compared too, so that nobody wins by learning less.

    python benchmarks/peers.py                        # 12 rounds each
    python benchmarks/peers.py --rounds 20 --out benchmarks/results-peers.json
    python benchmarks/peers.py --only ours,fedjax     # some of them

Run nothing else meanwhile. About 4 minutes on 2 cores, and 2 more to make the
environments.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from common import ROOT, isolated, write_result

PATIENCE = 280.0
"""Seconds a contestant may take to start or for one round."""


class Entry(NamedTuple):
    """A contestant: its program, its environment, and our goal against it."""

    script: str
    requirements: tuple[str, ...] = ()  # none: this Python, with this library
    goal: float | None = None
    launcher: tuple[str, ...] = ()  # goes between Python and the script


# torch first, at the version of the file that pip is given: no CUDA packages then.
ENTRIES = {
    "ours": Entry("ours.py"),
    "plain": Entry("plain_jax.py", goal=0.70),
    "fedjax": Entry(
        "with_fedjax.py",
        (
            "fedjax==0.0.17",
            "jax==0.5.3",
            "jaxlib==0.5.3",
            "flax==0.10.6",
            "optax==0.2.8",
            "dm-haiku==0.0.17",
            "chex==0.1.90",
        ),
        goal=0.50,
    ),
    "pfl": Entry(
        "with_pfl.py",
        ("torch==2.13.0", "pfl==0.6.0"),
        goal=0.50,
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"),
    ),
    "flower": Entry(
        "with_flower.py",
        ("torch==2.13.0", "flwr[simulation]==1.41.0", "ray==2.55.1"),
        goal=0.45,
    ),
}


class Contestant:
    """The referee's end of a running contestant."""

    def __init__(self, name: str, line: socket.socket, log: Path):
        self._name, self._line, self._log = name, line, log
        self._line.settimeout(PATIENCE)

    def _lost(self) -> SystemExit:
        said = self._log.read_text(errors="replace").splitlines()
        return SystemExit("\n".join([f"{self._name} ended early:", *said[-20:]]))

    def ready(self) -> None:
        """Waits until what it was told to do is done."""
        if self._line.recv(1) != b".":
            raise self._lost()

    def play(self) -> float:
        """One round; returns its seconds."""
        start = time.perf_counter()
        self._line.sendall(b"+")
        self.ready()
        return time.perf_counter() - start

    def accuracy(self) -> float:
        """Of the model it ends with."""
        with self._line.makefile() as file:
            answer = file.readline()
        if not answer:
            raise self._lost()
        return float(json.loads(answer))


@contextmanager
def running(name: str, entry: Entry, rounds: int) -> Iterator[Contestant]:
    """A contestant that has loaded its data and waits for its first round."""
    python = sys.executable
    if entry.requirements:
        python = str(isolated(name, entry.requirements))
    script = Path(__file__).resolve().parent / "peers" / entry.script
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        door, log = Path(folder) / "door", Path(folder) / "log"
        with socket.socket(socket.AF_UNIX) as listener, log.open("w") as said:
            listener.bind(str(door))
            listener.listen()
            listener.settimeout(5)
            settings = {
                "PEERS_SOCKET": str(door),
                "PEERS_ROUNDS": str(rounds),
                # Only what has no environment of its own may see this library.
                "PYTHONPATH": str(script.parent if entry.requirements else ROOT),
            }
            process = subprocess.Popen(
                [python, *entry.launcher, str(script)],
                env=os.environ | settings,
                cwd=folder,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            try:
                line = _connection(listener, process, name, log)
                with line:
                    contestant = Contestant(name, line, log)
                    contestant.ready()
                    yield contestant
                process.wait(60)
            finally:
                process.terminate()
                process.wait(60)


def _connection(
    listener: socket.socket, process: subprocess.Popen[bytes], name: str, log: Path
) -> socket.socket:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        try:
            return listener.accept()[0]
        except TimeoutError:
            continue
    said = log.read_text(errors="replace").splitlines()
    raise SystemExit("\n".join([f"{name} did not start:", *said[-20:]]))


def busy_cores(seconds: float = 3.0) -> float:
    """Cores in use on this machine while nobody has the turn; 0 is as it should be."""

    def ticks() -> int:
        user, nice, system, *_ = Path("/proc/stat").read_text().split()[1:]
        return int(user) + int(nice) + int(system)

    before = ticks()
    time.sleep(seconds)
    return (ticks() - before) / os.sysconf("SC_CLK_TCK") / seconds


def measure(names: list[str], rounds: int) -> dict[str, Any]:
    """Seconds of every timed round and the test accuracy, by contestant."""
    seconds: dict[str, list[float]] = {name: [] for name in names}
    waiting = 0.0
    with ExitStack() as stack:
        players = {}
        for name in names:
            print(f"starting {name} ...", file=sys.stderr, flush=True)
            running_one = running(name, ENTRIES[name], rounds + 1)
            players[name] = stack.enter_context(running_one)
        for t in range(rounds + 1):
            turn = {name: player.play() for name, player in players.items()}
            shown = "  ".join(f"{name} {value:.2f}" for name, value in turn.items())
            print(f"round {t}: {shown}", file=sys.stderr, flush=True)
            if t == 0:  # which compiles and is not counted
                waiting = busy_cores()
                continue
            for name, value in turn.items():
                seconds[name].append(value)
        accuracies = {name: player.accuracy() for name, player in players.items()}
    return {
        "seconds": seconds,
        "accuracies": accuracies,
        "busy_cores_while_all_wait": waiting,
    }


def report(measured: dict[str, Any]) -> dict[str, Any]:
    """Prints the table; returns medians and our ratios."""
    seconds, accuracies = measured["seconds"], measured["accuracies"]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratios = {}
    print(f"{'contestant':10} {'median s':>9} {'min':>7} {'max':>7} {'test':>7}  ratio")
    for name, values in seconds.items():
        said, goal = "", ENTRIES[name].goal
        if goal is not None and "ours" in medians:
            ratios[name] = medians["ours"] / medians[name]
            said = f"ours is {ratios[name]:.3f} x (goal <= {goal:.2f})"
        print(
            f"{name:10} {medians[name]:9.3f} {min(values):7.3f} {max(values):7.3f}"
            f" {accuracies[name]:7.4f}  {said}"
        )
    waiting = measured["busy_cores_while_all_wait"]
    print(f"cores in use while all wait for their turn: {waiting:.2f}")
    return {"medians": medians, "ratios": ratios}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=12, help="timed rounds each")
    parser.add_argument("--only", default=",".join(ENTRIES), help="names, with commas")
    parser.add_argument("--out", type=Path, help="write the result as JSON here")
    arguments = parser.parse_args()
    names = arguments.only.split(",")
    if unknown := sorted(set(names) - set(ENTRIES)):
        parser.error(f"unknown contestants {unknown}: choose from {list(ENTRIES)}")
    for name in names:  # not while others wait
        if ENTRIES[name].requirements:
            isolated(name, ENTRIES[name].requirements)
    measured = measure(names, arguments.rounds)
    result = measured | report(measured)
    if arguments.out:
        write_result(arguments.out, result)


if __name__ == "__main__":
    main()
