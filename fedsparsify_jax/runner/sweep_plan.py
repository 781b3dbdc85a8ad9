"""The plan of a sweep: its trials, their directories, and what is finished."""

from typing import Any, NamedTuple

from rich.console import Console

from fedsparsify_jax.runner.display.sweep_progress import results, warnings
from fedsparsify_jax.runner.options import sweep_grid
from fedsparsify_jax.runner.options.sweep_config import values
from fedsparsify_jax.runner.options.sweep_grid import Trial
from fedsparsify_jax.runner.storage import claims, sweep_directory
from fedsparsify_jax.runner.storage.lock import refuse_if_locked
from fedsparsify_jax.runner.storage.run_directory import check_name, versions
from fedsparsify_jax.runner.storage.sweep_directory import SweepDirectory, default_path

Summary = dict[str, Any]


class SweepPlan(NamedTuple):
    """The trials of a sweep, and those of them that are done."""

    axes: dict[str, list[Any]]  # options to their values
    trials: list[Trial]
    directory: SweepDirectory
    finished: dict[str, Summary]  # by trial

    def conclude(self, console: Console) -> list[Summary]:
        """Shows the results of all runs, or how many are missing; returns them."""
        summaries = [self.directory.summary(trial) or {} for trial in self.trials]
        number = sum(map(bool, summaries))
        if number < len(self.trials):
            missing = len(self.trials) - number
            lines = [f"{missing} of {len(self.trials)} runs are not finished"]
            at_work = claims.at_work(self.directory.path)
            lines += [f"share {name}: {owner}" for name, owner in at_work.items()]
            if not at_work:
                lines.append("nobody works on them: the same command goes on")
        else:
            lines = [
                results(self.trials, summaries),
                *warnings(self.trials, summaries),
            ]
        console.print("\n" + "\n".join(lines), soft_wrap=True, markup=False)
        return summaries


def plan(config: Any, *, writes: bool = True) -> SweepPlan:
    """Returns the plan of a sweep.

    Args:
      config: a `sweep_config.SweepConfig`.
      writes: whether the sweep is to go on, which one that shares it with nobody
        does not let another process do.

    Raises:
      InputError: for options that are none, a directory that cannot be written, or is
        in use by a sweep that shares it with nobody.
    """
    axes = values(config)
    trials = sweep_grid.trials(axes)
    datasets = {"dataset": sorted({trial.config.dataset for trial in trials})}
    out = config.out or default_path(datasets | axes)
    check_name(out)
    if writes and config.share is None:
        refuse_if_locked(out)
    existing = sweep_directory.read(out, trials)
    found = sweep_directory.plan(existing, trials, versions())
    return SweepPlan(
        axes=axes,
        trials=trials,
        directory=SweepDirectory(out, found.runs),
        finished=found.finished,
    )
