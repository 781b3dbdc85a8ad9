"""``fedsparsify federate nvflare``: a federation in NVFlare's simulator."""

import contextlib
import dataclasses
import importlib.util
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.federate import watching
from fedsparsify_jax.federate.nvflare import sites
from fedsparsify_jax.federate.options import NVFlareConfig, of_nodes
from fedsparsify_jax.federate.processes import Process, guarded
from fedsparsify_jax.federate.waiting import POLL, pause
from fedsparsify_jax.runner.display import summary
from fedsparsify_jax.runner.options import schema
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.process.signals import catching
from fedsparsify_jax.runner.storage.lock import refuse_if_locked
from fedsparsify_jax.runner.storage.run_directory import (
    check_name,
    default_path,
    plan,
    read_json,
)

BESIDE = ".nvflare"
"""Ending of the directory beside a run's that has the job, logs and sites' memories."""
_JOB = "fedsparsify"


def train(config: NVFlareConfig, console: Console | None = None) -> dict[str, Any]:
    """Trains a federation in the simulator and writes its run directory.

    Args:
      config: the options.
      console: where progress goes; standard output by default.

    Returns:
      The content of ``summary.json``; nothing if only the job is written.

    Raises:
      InputError: one line that says what is wrong and what to do.
      Stopped: after SIGTERM or SIGINT, everything that was started being stopped.
    """
    schema.check(config)
    console = console or Console(highlight=False)
    run = sites.checked(of_nodes(config))
    if importlib.util.find_spec("nvflare") is None:
        extra = 'pip install "fedsparsify_jax[nvflare]"'
        raise InputError(f"NVFlare is not installed for {sys.executable}: {extra}")
    out = (run.out or default_path(run)).absolute()
    data_dir = run.data_dir and run.data_dir.absolute()
    run = dataclasses.replace(run, out=out, data_dir=data_dir)
    check_name(out)
    if config.export is not None:
        job = _written(config, run, config.export, run.rounds or 0, None)
        console.print(f"{job}: nvflare job submit -j {job}", soft_wrap=True)
        return {}
    if any(character.isspace() for character in str(out)):
        raise InputError(f"NVFlare's simulator takes no spaces in --out: it is {out}")
    refuse_if_locked(out)
    completed = plan(out, run).completed
    directory = out.with_name(out.name + BESIDE)
    if not run.resume:
        shutil.rmtree(directory, ignore_errors=True)
    rounds = (run.rounds or 0) - completed
    job = _written(config, run, directory / "job", rounds, directory / "state")
    console.print(f"starting a server and {counted(config.nodes, 'site')}")
    ended = _simulated(
        _Simulation(job, directory, config.nodes), run, completed, console
    )
    return _result(ended, run, console)


def _written(
    config: NVFlareConfig,
    run: TrainConfig,
    directory: Path,
    rounds: int,
    state: Path | None,
) -> Path:
    """Writes the job of a federation, and returns its directory."""
    from fedsparsify_jax.federate.nvflare.job import job_of

    arguments = ["--state", str(state)] if state else []
    if config.site_data is not None:
        arguments += ["--data", config.site_data]
    directory.mkdir(parents=True, exist_ok=True)
    job = job_of(
        _JOB,
        run,
        [f"site-{number}" for number in range(1, config.nodes + 1)],
        rounds=rounds,
        own_data=config.site_data is not None,
        arguments=arguments,
    )
    job.export_job(str(directory))
    return directory / _JOB


class _Simulation(NamedTuple):
    """A job for the simulator."""

    job: Path
    directory: Path
    sites: int


def _simulated(
    simulation: _Simulation, run: TrainConfig, completed: int, console: Console
) -> Process:
    """Runs the simulator to its end, and shows the rounds meanwhile."""
    assert run.out is not None
    job, directory, number = simulation
    command = [sys.executable, "-m", "nvflare.private.fed.app.simulator.simulator"]
    command += [str(job), "-w", str(directory / "workspace")]
    command += ["-n", str(number), "-t", str(number)]
    with (
        contextlib.closing(
            watching.following(run.out, run, completed, console)
        ) as follow,
        catching(at_once=True),
        guarded(directory / "logs") as processes,
    ):
        process = processes.start("simulator", command, dict(os.environ))
        while process.running():
            pause(POLL, lambda: next(follow))
        next(follow)
    return process


def _result(ended: Process, run: TrainConfig, console: Console) -> dict[str, Any]:
    """Returns the summary that the server wrote, and shows what it noted."""
    assert run.out is not None
    for line in watching.notes(ended.log):
        console.print(line, soft_wrap=True)
    result = read_json(run.out / "summary.json")
    if ended.status or result is None:
        reason = watching.refusal(ended.log) or f"with status {ended.status}"
        raise InputError(f"the server ended: {reason} (see {ended.log})")
    summary.display(console, result, str(run.out))
    return result
