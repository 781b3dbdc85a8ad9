"""A sparse network in numba: the contestant of `inference.py` that skips zeros.

Puts the layers of a full network (see `nodes.describe`) into the form that
`inference_kernels.py` computes: dense layers, 3x3 convolutions of stride 1 with ReLU,
2 x 2 pooling, norms of the channels after it. Blocks are of one example where there
are images (more leave the caches), else of 32; two threads share out blocks, or the
channels of a convolution when there is one block. Runs where ``numba`` is installed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import inference_kernels as kernels
import numba  # type: ignore[import-not-found]
import numpy as np

Arrays = Mapping[str, np.ndarray]
Run = Callable[[np.ndarray], np.ndarray]
Step = Callable[[np.ndarray], np.ndarray]
LONGEST = 448
"""The most numbers of a plane that are summed at a time."""


def weights(rows: list[tuple[np.ndarray, np.ndarray]]) -> tuple[Any, Any, Any]:
    """Pointers, starts and values of outputs, padded to a multiple of four."""
    pointers, starts, values = [0], [], []
    for places, numbers in rows:
        extra = -len(places) % 4
        starts.append(
            np.pad(places, (0, extra), mode="edge" if len(places) else "empty")
        )
        values.append(np.pad(numbers, (0, extra)))
        pointers.append(pointers[-1] + len(places) + extra)
    return (
        np.array(pointers, np.int64),
        np.concatenate(starts).astype(np.uint64),
        np.concatenate(values).astype(np.float32),
    )


def _rows(kernel: np.ndarray, places: np.ndarray) -> list[tuple[Any, Any]]:
    """Of each output (last axis): where its inputs begin, and its weights."""
    flat = kernel.reshape(-1, kernel.shape[-1]).T
    return [(places[np.flatnonzero(row)], row[np.flatnonzero(row)]) for row in flat]


class _Builder:
    """Steps of a network, while its layers are read one after the other."""

    def __init__(self, batch: int, threads: int, images: bool):
        self.block = 1 if batch == 1 or images else 32
        self.blocks, self.threads = batch // self.block, threads
        self.parallel = threads > 1 and (images or self.blocks > 1)
        self.steps: list[Step] = []
        self.dense: list[tuple[list[Any], np.ndarray]] = []
        self.places = np.zeros(0, np.int64)  # of the inputs of the next dense layer
        self.size = 0  # of a block of what was computed last

    def buffer(self, size: int) -> np.ndarray:
        """Numbers of every block, with room to read a tile too far."""
        return np.zeros((self.blocks, size * self.block + LONGEST), np.float32)

    def load(self, shape: list[int], scale: float, used: np.ndarray) -> None:
        """Takes the inputs in, inside a border if they are images."""
        grid = np.arange(int(np.prod(shape)))
        places = grid
        if len(shape) == 3:
            height, across, _ = shape
            places = (grid // across + 1) * (across + 2) + grid % across + 1
            self.size = (height + 2) * (across + 2)
        else:
            self.size = len(grid)
        self.places = places * self.block
        load, out = kernels.load_of(self.block), self.buffer(self.size)
        at, number = places[used], np.float32(scale)

        def step(x: np.ndarray) -> np.ndarray:
            load(x.reshape(len(x), -1), number, used, at, out)
            return out

        self.steps.append(step)

    def conv(self, shape: list[int], own: Arrays) -> None:
        """Adds a convolution and the ReLU after it."""
        height, across, units = shape
        kernel, block = own["kernel"], self.block
        if kernel.shape[:2] != (3, 3):
            raise ValueError("only convolutions of 3x3")
        row, plane = across + 2, (height + 2) * (across + 2)
        dy, dx, channel = np.meshgrid(
            np.arange(3), np.arange(3), np.arange(kernel.shape[2]), indexing="ij"
        )
        places = (channel * plane + dy * row + dx).ravel() * block
        lists = weights(_rows(kernel, places))
        bias = own.get("bias", np.zeros(units)).astype(np.float32)
        parts = self.threads if self.blocks < self.threads else 1
        length = (height * row - 2) * block
        width = 16 * -(-length // (16 * -(-length // LONGEST)))
        run = kernels.conv_of(block, width, self.parallel)
        out = self.buffer(units * plane)

        def step(x: np.ndarray) -> np.ndarray:
            run(x, height, across, *lists, bias, parts, out)
            return out

        self.steps.append(step)

    def pool(self, shape: list[int], own: Arrays) -> None:
        """Adds the pooling of a layer of this shape, and the norm after it."""
        height, across, units = shape
        scale, shift = np.ones(units, np.float32), np.zeros(units, np.float32)
        scale, shift = scale * own.get("scale", scale), shift + own.get("shift", shift)
        plane = (height // 2 + 2) * (across // 2 + 2)
        y, x, channel = np.meshgrid(
            *(np.arange(n) for n in (height // 2, across // 2, units)), indexing="ij"
        )
        inside = (y + 1) * (across // 2 + 2) + x + 1
        self.places = (channel * plane + inside).ravel() * self.block
        run, out = (
            kernels.pool_of(self.block, self.parallel),
            self.buffer(units * plane),
        )

        def step(value: np.ndarray) -> np.ndarray:
            run(value, height, across, scale, shift, out)
            return out

        self.steps.append(step)

    def add_dense(self, own: Arrays) -> None:
        """Notes a dense layer; all of them become one step."""
        kernel = own["kernel"]
        bias = own.get("bias", np.zeros(kernel.shape[1]))
        self.dense.append((_rows(kernel, self.places), bias))
        self.places = np.arange(kernel.shape[1]) * self.block

    def finish(self) -> Run:
        """The function of the network."""
        sizes = np.array([len(rows) for rows, _ in self.dense])
        lists = weights([row for rows, _ in self.dense for row in rows])
        bias = np.concatenate([bias for _, bias in self.dense]).astype(np.float32)
        run = kernels.dense_of(self.block, self.parallel)
        room = int(sizes.max()) * self.block
        spare = np.zeros((self.blocks, len(sizes), room), np.float32)
        out, steps, block = self.buffer(int(sizes[-1])), self.steps, self.block
        last = int(sizes[-1])

        def forward(x: np.ndarray) -> np.ndarray:
            value: Any = x
            for step in steps:
                value = step(value)
            run(value, sizes, *lists, bias, spare, out)
            result = out[:, : last * block].reshape(-1, last, block)
            return result.transpose(0, 2, 1).reshape(-1, last).copy()

        return forward


def network(layers: list[Any], arrays: list[Arrays], batch: int, threads: int) -> Run:
    """Returns the function of a full sequential network for a fixed batch."""
    numba.set_num_threads(threads)
    kinds = [node["kind"] for node in layers]
    images = "conv" in kinds
    if images and batch > threads:  # an image stays in the caches from layer to layer
        some = network(layers, arrays, threads, threads)
        cuts = range(0, batch, threads)
        return lambda x: np.concatenate([some(x[cut : cut + threads]) for cut in cuts])
    builder = _Builder(batch, threads, images)
    scale, loaded = 1.0, False
    for number, (node, own) in enumerate(zip(layers, arrays, strict=True)):
        kind = node["kind"]
        if kind == "affine" and not loaded:
            if np.ndim(own["scale"]) or "shift" in own:
                raise ValueError("only inputs that are scaled by one number")
            scale = float(own["scale"])
        if kind in ("conv", "dense") and not loaded:
            shape = layers[number - 1]["shape"]
            used = np.arange(int(np.prod(shape)))
            if kind == "dense":
                used = np.flatnonzero(own["kernel"].any(axis=1))
            builder.load(shape, scale, used)
            loaded = True
        if kind == "conv":
            builder.conv(node["shape"], own)
        elif kind == "dense":
            builder.add_dense(own)
        elif kind == "max_pool":
            after = arrays[number + 1] if kinds[number + 1] == "affine" else {}
            builder.pool(layers[number - 1]["shape"], after)
        elif kind not in ("input", "cast", "affine", "reshape", "relu"):
            raise ValueError(f"no form of the layer {kind}")
    return builder.finish()
