"""The loop over rounds, of a single run or of several that share a program."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax

from fedsparsify_jax.metrics.communication import dense_bytes
from fedsparsify_jax.runner.display.summary import Record, round_record
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.process import distributed
from fedsparsify_jax.runner.process.signals import Stop
from fedsparsify_jax.runner.programs.federation import Federation
from fedsparsify_jax.runner.programs.program import Report
from fedsparsify_jax.runner.storage.run_directory import RunDirectory
from fedsparsify_jax.types import RoundInfo, State


class Run(NamedTuple):
    """A run in progress: its files, and the records of all its rounds so far."""

    directory: RunDirectory
    records: list[Record]
    epsilons: Sequence[float] = ()  # spent after every round, of a private run


class Pause(NamedTuple):
    """A pause between two calls of a program."""

    state: State
    completed: int  # rounds
    latest: list[list[Record]]  # of every run: its records since the last pause
    signal: int  # that asks for an end, 0 for none


def rounds(
    config: TrainConfig,
    federation: Federation,
    runs: Sequence[Run],
    state: State,
    stop: Stop,
    *,
    next_rounds: Callable[[State, int, float], int],
    step: Callable[[State, int, int], tuple[State, list[list[Report]]]],
    measure: Callable[[RoundInfo], Record] | None = None,
) -> Iterator[Pause]:
    """Runs the rounds that are left, and writes and keeps their records.

    Args:
      config: what all runs agree in.
      federation: of any of them.
      runs: whose records come from the one program.
      state: of all runs; donated.
      stop: what may ask for an end, which is up to the caller.
      next_rounds: ``(state, completed, seconds) -> rounds`` of the next call.
        ``seconds`` is what a round of all runs took last, infinity at first. Its own
        time does not count.
      step: ``(state, completed, rounds) -> (state, reports)``, by run and round.
      measure: what else to record of a round, of a single run.

    Yields:
      What has been reached, after every call.
    """
    total, completed, seconds = config.rounds or 0, int(state.round), math.inf
    metric = federation.task.metric
    dense = dense_bytes(jax.eval_shape(federation.model.init, jax.random.key(0)))
    while completed < total:
        number = min(next_rounds(state, completed, seconds), total - completed)
        start = time.perf_counter()
        state, reports = step(state, completed, number)
        seconds = (time.perf_counter() - start) / number
        completed += number
        # Runs share the time, so it is divided among them.
        share = seconds / len(runs)
        latest: list[list[Record]] = [[] for _ in runs]
        for run, new, run_reports in zip(runs, latest, reports, strict=True):
            for t, report in enumerate(run_reports, completed - number + 1):
                due = t % config.evaluate_every == 0 or t == total
                record = round_record(report, metric, dense, share, due=due)
                if run.epsilons:
                    record["epsilon"] = run.epsilons[t - 1]
                if measure is not None:
                    record |= measure(report.info)
                if distributed.is_first():
                    run.directory.append(record)
                new.append(record)
            run.records.extend(new)
        yield Pause(
            state=state,
            completed=completed,
            latest=latest,
            signal=distributed.largest(stop.number),
        )
