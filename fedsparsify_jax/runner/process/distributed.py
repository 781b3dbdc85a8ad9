"""Several processes as one run, on JAX's own distributed runtime.

Every process is started with the same command and the same data; each computes the
share of the clients that its devices hold, and process 0 alone writes and prints. (The
checkpoints are Orbax's, which has each process write what only it holds.) A single
process is the same thing with nobody to talk to.

A job stands and falls together: a process that fails says why and goes at once, without
waiting for the others. They notice at the next exchange, when their connection breaks,
or after `SILENCE` seconds, and go too. The run resumes from its last checkpoint.
"""

import os
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import PyTree

SILENCE = 30
"""Seconds without a sign of life after which a process counts as dead."""

GATHERING = 120
"""Seconds that processes may take to find each other at the start."""

AUTO = "auto"
"""The coordinator's address when JAX is to ask the cluster (SLURM, TPU, MPI, ...)."""


def check(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Refuses options that do not go together.

    Raises:
      InputError: naming the option, its value and what is allowed.

    Example:
      >>> check("node0:1234", 2, 1), check(None, None, None), check("auto", None, None)
      (None, None, None)
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise InputError(
                "--num-processes and --process-id need --coordinator HOST:PORT, the "
                "address of process 0"
            )
        return
    if coordinator == AUTO:
        return
    if not re.fullmatch(r"\S+:\d+", coordinator):
        raise InputError(
            f"--coordinator is {coordinator!r}: expected HOST:PORT of process 0, or "
            f"{AUTO} where JAX can ask the cluster"
        )
    if num_processes is None or process_id is None:
        raise InputError(
            "--coordinator HOST:PORT needs --num-processes and --process-id"
        )
    if num_processes < 1:
        raise InputError(f"--num-processes is {num_processes}: it must be at least 1")
    if not 0 <= process_id < num_processes:
        raise InputError(
            f"--process-id is {process_id}: it must be between 0 and "
            f"{num_processes - 1}"
        )


def join(
    coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
    """Joins the other processes; to be called before JAX is first used.

    Does nothing without a coordinator, or when this process has joined already.

    Raises:
      InputError: if the options do not go together, or the others are not found.
    """
    check(coordinator, num_processes, process_id)
    if coordinator is None or jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # It would swallow the signal that ends a process, to save a last time before the
    # machine is taken away; checkpoints are frequent instead.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            None if coordinator == AUTO else coordinator,
            num_processes,
            process_id,
            initialization_timeout=GATHERING,
            heartbeat_timeout_seconds=SILENCE,
            # Told everything, JAX need not guess; it would be wrong inside a cluster
            # whose own variables describe another job.
            cluster_detection_method=None if coordinator == AUTO else "deactivate",
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"the processes of --coordinator {coordinator} did not find each other "
            f"({reason}): start all of them, with the same address"
        ) from error


def alone() -> bool:
    """Returns whether this is the only process."""
    return not jax.distributed.is_initialized() or jax.process_count() == 1


def is_first() -> bool:
    """Returns whether this is process 0, the one that writes and prints."""
    return alone() or jax.process_index() == 0


def first_decides(ask: Callable[[], int | None]) -> int:
    """Returns what ``ask`` answers in process 0, in all of them.

    Args:
      ask: called in process 0 alone; answers with a number of at least 0, or nothing.

    Raises:
      InputError: everywhere, if it raises one in process 0.

    Example:
      >>> first_decides(lambda: 3)
      3
    """
    if alone():
        return int(ask() or 0)
    answer, refusal = -1, None
    if is_first():
        try:
            answer = int(ask() or 0)
        except InputError as error:
            refusal = error
    answer = int(from_first(np.int32(answer)))
    if refusal is not None:
        raise refusal
    if answer < 0:
        raise InputError(f"process {jax.process_index()} stops as process 0 does")
    return answer


def from_first(tree: PyTree) -> PyTree:
    """Process 0's numbers in all processes.

    Args:
      tree: of arrays with the same shapes and dtypes everywhere; the values count in
        process 0 alone.

    Returns:
      NumPy arrays.
    """
    return multihost_utils.broadcast_one_to_all(tree)


def largest(number: int) -> int:
    """Returns the largest of the processes' numbers, in all of them at once.

    >>> largest(3)
    3
    """
    if alone():
        return number
    return int(np.max(multihost_utils.process_allgather(np.int32(number))))


def to_host(tree: PyTree) -> PyTree:
    """Arrays that are spread over the processes as whole NumPy arrays in each.

    All processes have to call it together.

    >>> to_host({"a": jax.numpy.arange(2)})
    {'a': array([0, 1], dtype=int32)}
    """

    def whole(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def lost(error: Exception) -> str:
    """Explains an error that one of several processes ran into."""
    reason = str(error).strip().splitlines()[0] if str(error) else repr(error)
    return (
        f"process {jax.process_index()} of {jax.process_count()} stopped "
        f"({type(error).__name__}: {reason}); once all are gone, the same commands "
        "with --out DIR --resume continue from the last checkpoint"
    )


def leave(status: int) -> None:
    """Ends a failed process of several without waiting for the others.

    The ordinary way out waits until all processes want to go, which those that are
    still computing do not.
    """
    if status and not alone():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
