"""``fedsparsify sweep --launcher``: the processes of a sweep as jobs.

Every job is ``fedsparsify sweep --share K/N`` with the same other options and the
directory of the sweep, which all machines have to see. This process starts them, shows
how many runs are finished, and stops them when it is stopped.
"""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from rich.console import Console

from fedsparsify_jax.errors import InputError, counted
from fedsparsify_jax.runner import launchers, sweep_plan
from fedsparsify_jax.runner.launchers import Job
from fedsparsify_jax.runner.options.sharing import Share, engine_options
from fedsparsify_jax.runner.process.signals import Stop, Stopped, catching
from fedsparsify_jax.runner.storage import claims
from fedsparsify_jax.runner.sweep_plan import SweepPlan

JOBS = "jobs"
"""Folder of a sweep's directory: what the jobs print."""
_SECONDS = 1.0
"""Between two looks at the jobs."""


class _Launch(NamedTuple):
    """A sweep that jobs work on."""

    planned: SweepPlan
    jobs: Sequence[Job]
    folder: Path
    console: Console

    def finished(self) -> int:
        """Returns how many runs are finished."""
        directory, trials = self.planned.directory, self.planned.trials
        return sum(directory.summary(trial) is not None for trial in trials)


def launch(config: Any, console: Console) -> list[dict[str, Any]]:
    """Starts the jobs of a sweep and waits for them; returns the runs' summaries.

    Args:
      config: a `sweep_config.SweepConfig` with ``launcher`` and ``workers``.
      console: where progress goes.

    Raises:
      InputError: if the launcher is not installed, or does not take its options; if a
        job fails, with its reason and the folder of what it printed.
      Stopped: a `KeyboardInterrupt`, after SIGTERM or SIGINT; the jobs are cancelled.
    """
    planned = sweep_plan.plan(config)
    if len(planned.finished) == len(planned.trials):  # no job has anything to do
        return planned.conclude(console)
    path = planned.directory.path.absolute()
    folder = path / JOBS
    alone = dataclasses.replace(
        config, out=path, launcher=None, workers=None, launcher_option=()
    )
    works = [
        dataclasses.replace(alone, share=str(Share(number, config.workers)))
        for number in range(config.workers)
    ]
    with claims.in_common(path):
        planned.directory.write_options(planned.axes)
    with catching() as stop:
        jobs = launchers.start(
            config.launcher, works, folder, engine_options(config.launcher_option)
        )
        running = _Launch(planned, jobs, folder, console)
        with stop.deferred():
            _wait(running, stop)
    _refuse_failures(running)
    return planned.conclude(console)


def _wait(running: _Launch, stop: Stop) -> None:
    """Waits until all jobs have ended, and shows the runs that are finished."""
    total, shown = len(running.planned.trials), -1
    jobs = counted(len(running.jobs), "job")
    running.console.print(f"{jobs} started, see {running.folder}", soft_wrap=True)
    while True:
        over = all(job.done() for job in running.jobs)
        if (finished := running.finished()) != shown:
            shown = finished
            running.console.print(f"{finished} of {total} runs finished")
        if over:
            return
        if stop.number:
            _cancel(running, stop.number)
        time.sleep(_SECONDS)


def _cancel(running: _Launch, signal: int) -> NoReturn:
    for job in running.jobs:
        job.cancel()
    reached = f"{running.finished()} of {len(running.planned.trials)} runs finished"
    raise Stopped(signal, running.planned.directory.path, reached)


def _refuse_failures(running: _Launch) -> None:
    """Refuses to conclude while runs are missing because jobs failed."""
    reasons = {number: job.failure() for number, job in enumerate(running.jobs)}
    failed = {number: text for number, text in reasons.items() if text}
    if not failed:
        return
    number, reason = next(iter(failed.items()))
    jobs = counted(len(running.jobs), "job")
    text = f"{len(failed)} of {jobs} failed; job {number}: {reason}"
    if running.finished() < len(running.planned.trials):
        raise InputError(f"{text} (see {running.folder})")
    # The others have done its work.
    running.console.print(f"warning: {text}", soft_wrap=True, markup=False)
