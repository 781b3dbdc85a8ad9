"""The command line: ``fedsparsify train``, ``fedsparsify sweep`` and others."""

import contextlib
import functools
import io
import re
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import tyro

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.report import ReportConfig, report
from fedsparsify_jax.runner import SweepConfig, TrainConfig, sweep, train
from fedsparsify_jax.runner.costs import CostsConfig, show_costs
from fedsparsify_jax.runner.options import config_file
from fedsparsify_jax.runner.process import distributed
from fedsparsify_jax.runner.process.signals import Stopped, catching

app = tyro.extras.SubcommandApp()


@app.command(name="train")
def _train(config: TrainConfig) -> Callable[[], object]:
    """Train a federated model and write a run directory.

    Without options: FedSparsify-Global on the embedded digits, 10 clients, 90 %
    sparsity. The paper's FashionMNIST federation: --dataset fashion_mnist. Options may
    come from a file too: --config runs/ONE/config.json, or TOML; those beside it win.
    """
    return functools.partial(train, config)


@app.command(name="sweep")
def _sweep(config: SweepConfig) -> Callable[[], object]:
    """Train every combination of the options' values, as few compiled programs.

    Options are those of train, each with one value or more: --seeds 3 --final-sparsity
    0.9,0.95. Every run has a directory as train writes it. The same command started
    again goes on with what is not finished. --config FILE is as for train.
    """
    return functools.partial(sweep, config)


@app.command(name="costs")
def _costs(config: CostsConfig) -> Callable[[], object]:
    """Print what pruning saves in bytes and FLOPs; nothing is trained.

    Without options: the FashionMNIST federation of the paper.
    """
    return functools.partial(show_costs, config)


@app.command(name="report")
def _report(config: ReportConfig) -> Callable[[], object]:
    """Write a report of runs and sweeps: curves, tables, and what differs.

    One HTML page that needs no network, in report.html; or Markdown, or figures.
    """
    return functools.partial(report, config)


def _one_line(boxed: str) -> str:
    """The message inside tyro's box as one line, without the help it repeats."""
    text = re.sub("[╭╮╰╯│─]", " ", boxed)
    # Without UTF-8 there is no box, only rules of hyphens.
    text = re.sub(r"(?m)^ *-{3,} *$", "", text)
    text = re.split(r"Argument helptext:|For full helptext|Got errors:|=====", text)[0]
    message, *similar = text.split("Perhaps you meant:")
    lines = [" ".join(line.split()) for line in message.splitlines() if line.strip()]
    # The first line is the box's title, a kind of error that the rest spells out.
    said = " ".join(lines[1:] or lines)
    # An optional number is to tyro a union, which it explains at length.
    said = re.sub(
        r"no type matching \{None\}\|(\w+) could be instantiated from \['(.*)'\]",
        r"expected \1, not '\2'",
        said,
    )
    # So is an option of another command, by the order of words.
    said = re.sub(r" or misplaced(.*?) *Arguments are applied .*", r"\1", said)
    said = re.sub(r" \(applied to [^)]*\)", ",", said).rstrip(",")
    meant = re.search(r"--[\w-]+", " ".join(similar))
    if meant and meant[0] in said.replace(",", "").split():
        # Most are options of several commands; people mean the plain one.
        owners = re.findall(r"in (\w+ [\w-]+) --help", " ".join(similar))
        owners.sort(key=lambda owner: not owner.endswith(" train"))
        return f"{said}: an option of {owners[0]}" if owners else said
    return f"{said}: did you mean {meant[0]}?" if meant else said


def _parse(arguments: Sequence[str]) -> Callable[[], object]:
    """What is to be done.

    Raises:
      InputError: for options that do not parse.
      SystemExit: after ``--help``.
    """
    boxed, words = io.StringIO(), config_file.expanded(arguments)
    try:
        with contextlib.redirect_stderr(boxed):
            return app.cli(
                prog="fedsparsify",
                args=words,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise InputError(f"{_one_line(boxed.getvalue())} (see --help)") from None


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: the words after the program's name; those of the process by default.

    Returns:
      The exit status: 0; 2 for bad input, after one line on standard error; 143 and
      130 after SIGTERM and SIGINT, see `signals`. A process that is one of several ends
      here if it fails: with these or, when another one was lost, with 1.
    """
    status = _run(sys.argv[1:] if arguments is None else arguments)
    distributed.leave(status)
    return status


def _again(arguments: Sequence[str], out: Path | None) -> str:
    """The command line that goes on with what was stopped.

    >>> _again(["train", "--rounds", "9"], Path("runs/one"))
    'fedsparsify train --rounds 9 --out runs/one --resume'
    """
    words = ["fedsparsify", *arguments]
    given = {word.split("=")[0].replace("_", "-") for word in arguments}
    if arguments[:1] == ["train"]:
        if "--out" not in given:
            words += ["--out", str(out or "DIR")]
        if "--resume" not in given:
            words.append("--resume")
    return shlex.join(words)


def _run(arguments: Sequence[str]) -> int:
    try:
        with catching(at_once=True):
            _parse(arguments)()
    except InputError as error:
        print(f"fedsparsify: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        stop = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        if distributed.is_first():
            again = _again(arguments, stop.out)
            print(f"fedsparsify: {stop}; to go on: {again}", file=sys.stderr)
        return stop.status
    except Exception as error:
        if distributed.alone():
            raise
        print(f"fedsparsify: error: {distributed.lost(error)}", file=sys.stderr)
        return 1
    return 0
