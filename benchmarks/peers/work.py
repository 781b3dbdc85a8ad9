"""The job that every contestant does, and how they take turns. Needs NumPy alone.

A contestant is a program of its own, run by the Python of its own environment. It
waits for its turn, plays one round, waits again; while it waits it does nothing. In the
end it hands over its model, which is tested here the same way for all.
"""

import gzip
import json
import os
import socket
from itertools import pairwise
from pathlib import Path

import numpy as np

CLIENTS, EXAMPLES, EPOCHS, BATCH, RATE = 10, 6000, 4, 32, 0.02
WIDTHS = (784, 128, 128, 10)
FILES = Path("/usr/share/datasets/fashion-mnist")


def _read(name: str, header: int) -> np.ndarray:
    data = gzip.decompress((FILES / name).read_bytes())
    return np.frombuffer(data, np.uint8, offset=header)


def _split(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    if not FILES.exists():  # the time of a round does not depend on the pictures
        rng = np.random.default_rng(size)
        x = rng.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        return x, rng.integers(0, 10, size).astype(np.int32)
    x = _read(f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28)
    return x, _read(f"{name}-labels-idx1-ubyte.gz", 8).astype(np.int32)


def clients() -> tuple[np.ndarray, np.ndarray]:
    """Images ``[10, 6000, 28, 28]`` uint8 and classes ``[10, 6000]`` int32, IID."""
    x, y = _split("train", CLIENTS * EXAMPLES)
    order = np.random.default_rng(0).permutation(len(y)).reshape(CLIENTS, EXAMPLES)
    return x[order], y[order]


def scaled(x: np.ndarray) -> np.ndarray:
    """Images as rows of numbers between 0 and 1."""
    return x.reshape(len(x), -1).astype(np.float32) / 256.0


def accuracy(layers: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Test accuracy of the MLP with these kernels ``[in, out]`` and biases."""
    x, y = _split("t10k", 10_000)
    h = scaled(x)
    for kernel, bias in layers[:-1]:
        h = np.maximum(h @ kernel + bias, 0)
    kernel, bias = layers[-1]
    return float(np.mean(np.argmax(h @ kernel + bias, axis=1) == y))


class Turns:
    """A contestant's line to the referee, `benchmarks/peers.py`."""

    def __init__(self) -> None:
        self.rounds = int(os.environ["PEERS_ROUNDS"])
        self._line = socket.socket(socket.AF_UNIX)
        self._line.connect(os.environ["PEERS_SOCKET"])

    def wait(self) -> None:
        """Says that everything before is done and waits for the next round's start."""
        self._line.sendall(b".")
        if not self._line.recv(1):
            raise SystemExit("the referee has gone")

    def finish(self, layers: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Says that the last round is done and hands over the model."""
        self._line.sendall(b".")
        shapes = [tuple(np.shape(kernel)) for kernel, _ in layers]
        assert shapes == list(pairwise(WIDTHS)), shapes
        self._line.sendall(json.dumps(accuracy(layers)).encode() + b"\n")
        self._line.close()
