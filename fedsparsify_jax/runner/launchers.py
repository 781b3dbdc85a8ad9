"""The engines of ``--launcher``: what they start, and how their jobs end.

submitit writes SLURM jobs, or starts processes on this machine where there is no SLURM.
Ray runs tasks on its cluster, or on this machine if there is none. Both are extras of
the package, by their names.
"""

import contextlib
import importlib
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.storage.lock import making

Options = Mapping[str, int | float | str]
_RAISED = re.compile(r"[\w.]*(?:Error|Stopped|Exception): (.+)", re.ASCII)
"""The last line of a trace."""


class Job(Protocol):
    """One process of a sweep that an engine has started."""

    def done(self) -> bool:
        """Returns whether it has ended, in whatever way."""

    def failure(self) -> str:
        """Returns why it failed, once it has ended; "" if it did not."""

    def cancel(self) -> None:
        """Stops it."""


class Work:
    """The work of a job; pickled, so that it can be done elsewhere."""

    def __init__(self, config: Any):
        self._config = config

    def __call__(self) -> int:
        """Works on the share; returns how many runs of the sweep are finished."""
        # Only where it is done: this module is imported by what a sweep needs.
        sweep = importlib.import_module("fedsparsify_jax.runner.sweep").sweep
        return sum(map(bool, sweep(self._config)))

    def checkpoint(self) -> Any:
        """Returns what SLURM is to run instead when it ends the job: the same again."""
        return _import("submitit").helpers.DelayedSubmission(self)


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(
            f"--launcher {name} needs {name}: pip install 'fedsparsify_jax[{name}]'"
        ) from None


def _reason(error: BaseException) -> str:
    """Returns an error's own words, which engines put into a trace or a frame.

    >>> _reason(RuntimeError("job 7:\\n--\\nValueError: no data\\n--\\nlog: x"))
    'no data'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    named = [match for line in lines if (match := _RAISED.match(line))]
    if named:
        return named[-1].group(1)
    return next(filter(None, lines), type(error).__name__)


class _Submitted:
    """A job of submitit."""

    def __init__(self, job: Any):
        self._job = job

    def done(self) -> bool:
        return bool(self._job.done())

    def failure(self) -> str:
        error = self._job.exception()
        return "" if error is None else _reason(error)

    def cancel(self) -> None:
        self._job.cancel(check=False)


def _with_submitit(works: Sequence[Work], folder: Path, options: Options) -> list[Job]:
    submitit = _import("submitit")
    settings: dict[str, Any] = {"name": "fedsparsify", "timeout_min": 24 * 60}
    settings |= options
    cluster = settings.pop("cluster", "slurm" if shutil.which("srun") else "local")
    try:
        executor = submitit.AutoExecutor(folder=str(folder), cluster=cluster)
        executor.update_parameters(**settings)
    except (NameError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"--launcher-option: {_reason(error)}") from None
    with executor.batch():
        jobs = [executor.submit(work) for work in works]
    return [_Submitted(job) for job in jobs]


class _Task:
    """A task of Ray."""

    def __init__(self, ray: Any, reference: Any):
        self._ray, self._reference = ray, reference

    def done(self) -> bool:
        return bool(self._ray.wait([self._reference], timeout=0)[0])

    def failure(self) -> str:
        try:
            self._ray.get(self._reference)
        except Exception as error:  # whatever the task raised, or the cluster
            return _reason(error)
        return ""

    def cancel(self) -> None:
        self._ray.cancel(self._reference, force=True)


def _with_ray(works: Sequence[Work], folder: Path, options: Options) -> list[Job]:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    logging.getLogger("ray").setLevel(logging.ERROR)
    ray = _import("ray")
    settings: dict[str, Any] = {"num_cpus": 1, "max_retries": 3, **options}
    address = settings.pop("address", os.environ.get("RAY_ADDRESS"))
    try:
        if not ray.is_initialized():
            # Where no cluster runs, one for this sweep.
            local = {} if address else {"include_dashboard": False}
            ray.init(
                address=address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **local,
            )
        remote = ray.remote(_done).options(**settings)
    except (ConnectionError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"--launcher-option: {_reason(error)}") from None
    return [_Task(ray, remote.remote(work, folder)) for work in works]


def _done(work: Work, folder: Path) -> int:
    """Does the work, and prints into the folder."""
    path = folder / f"ray-{os.getpid()}.log"
    with path.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        return work()


_START = {"submitit": _with_submitit, "ray": _with_ray}


def start(
    engine: str, configs: Sequence[Any], folder: Path, options: Options
) -> list[Job]:
    """Starts a job for every configuration of a sweep.

    Args:
      engine: submitit or ray.
      configs: `sweep_config.SweepConfig`, a share each.
      folder: for what the jobs print.
      options: of the engine.

    Raises:
      InputError: if the engine is not installed, or does not take its options.
    """
    with making(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return _START[engine]([Work(config) for config in configs], folder, options)
