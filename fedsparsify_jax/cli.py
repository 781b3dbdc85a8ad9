"""The command line: ``fedsparsify train``, ``fedsparsify sweep`` and others."""

import difflib
import functools
import shlex
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import cyclopts

from fedsparsify_jax.errors import InputError, exhausted, shown
from fedsparsify_jax.federate.nvflare.command import train as federate_nvflare
from fedsparsify_jax.federate.options import InitConfig, LocalConfig, NVFlareConfig
from fedsparsify_jax.federate.setting_up import init as federate_init
from fedsparsify_jax.federate.simulated import train as encrypted_train
from fedsparsify_jax.federate.trial import train as federate_local
from fedsparsify_jax.report import ReportConfig, report
from fedsparsify_jax.report.audit import write_page
from fedsparsify_jax.runner import SweepConfig, TrainConfig, sweep, train
from fedsparsify_jax.runner.audit.command import audit
from fedsparsify_jax.runner.audit.options import AuditConfig
from fedsparsify_jax.runner.costs import CostsConfig, show_costs
from fedsparsify_jax.runner.model_commands.evaluate import EvaluateConfig, evaluate
from fedsparsify_jax.runner.model_commands.export import ExportConfig, export
from fedsparsify_jax.runner.model_commands.inspection import InspectConfig, inspect
from fedsparsify_jax.runner.model_commands.predict import PredictConfig, predict
from fedsparsify_jax.runner.options import config_file
from fedsparsify_jax.runner.options.help_text import help_text, metavar
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.options.schema import POSITIONAL, Option, Shown, read
from fedsparsify_jax.runner.options.sweep_config import COMMAND_LINE
from fedsparsify_jax.runner.process import distributed, output
from fedsparsify_jax.runner.process.signals import Stopped, catching

_FILE = Option(
    field="config",
    kind=str,
    default=None,
    help="Options that are not on the command line: config.json of a run, sweep.json "
    "of a sweep, or a JSON or TOML file of yours.",
    optional=True,
    shown=Shown(metavar="FILE"),
    group="Options from a file",
)

_LESS_MEMORY = (
    "less is taken by fewer clients at once (--chunk-size), smaller batches "
    "(--batch-size), --precision bf16 and --client-data disk"
)

app = cyclopts.App(name="fedsparsify", version_flags=[], help_format="plaintext")
_FEDERATE = cyclopts.App(
    name="federate",
    help="Train a federation whose clients are on machines of their own.",
    sort_key=100,
    version_flags=[],
    help_format="plaintext",
)


@functools.cache
def _group(title: str) -> cyclopts.Group:
    return cyclopts.Group.create_ordered(title)


def _latest(hint: Any, tokens: Sequence[cyclopts.Token]) -> tuple[str, ...]:
    """Returns the words of an option; if it is there again, those of the last time."""
    del hint
    (*_, start) = (n for n, token in enumerate(tokens) if token.index == 0)
    return tuple(token.value for token in tokens[start:])


def _parameter(option: Option) -> Parameter:
    """Returns an option as a parameter of a command: words that are not read yet."""
    positional = POSITIONAL in option.traits
    several = option.several and not positional
    names = [*filter(None, [flag(option.field), option.shown.short])]
    text = cyclopts.Parameter(
        name=option.metavar if positional else names,
        help=help_text(option),
        metavar=metavar(option),
        group=_group(option.group),
        negative=(),
        show_default=False,
        allow_repeating=option is not _FILE,
        consume_multiple=1 if several else None,
        converter=_latest if several else None,
    )
    words: Any = tuple[str, ...] if several else str
    kind = Parameter.KEYWORD_ONLY
    return Parameter(
        option.field,
        Parameter.VAR_POSITIONAL if positional else kind,
        default=Parameter.empty if positional else None,
        annotation=Annotated[bool if option.kind is bool else words, text],
    )


def _register(
    run: Callable[[Any], object],
    name: str,
    config: Any,
    options: Mapping[str, Option],
) -> None:
    """Registers a command whose words are the options of a configuration."""

    def command(**words: Any) -> None:
        path = words.pop(_FILE.field, None)
        if path is not None:
            words = config_file.beneath(words, _FILE.parse(path), options)
        run(config(**{field: options[field].parse(w) for field, w in words.items()}))

    every = [*options.values(), *([_FILE] if name in _FROM_FILES else [])]
    signature = Signature(list(map(_parameter, every)))
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__doc__ = config.__doc__
    _OPTIONS[name] = [flag(option.field) for option in every]
    group, _, last = name.rpartition(" ")
    (_FEDERATE if group else app).command(command, name=last, sort_key=len(_OPTIONS))


_FROM_FILES = (
    *("train", "sweep"),
    *("federate local", "federate init", "federate nvflare"),
)
"""Commands whose options may come from a file."""
_OPTIONS: dict[str, list[str]] = {}
"""The options of every command, as they are typed."""

# By lambdas, so that the functions can be exchanged in this module.
_register(lambda config: _train(config), "train", TrainConfig, read(TrainConfig))
_register(lambda config: sweep(config), "sweep", SweepConfig, COMMAND_LINE)
_register(lambda config: show_costs(config), "costs", CostsConfig, read(CostsConfig))
_register(lambda config: report(config), "report", ReportConfig, read(ReportConfig))
_register(lambda config: export(config), "export", ExportConfig, read(ExportConfig))
_register(lambda config: inspect(config), "inspect", InspectConfig, read(InspectConfig))
_register(lambda config: predict(config), "predict", PredictConfig, read(PredictConfig))
_register(
    lambda config: evaluate(config), "evaluate", EvaluateConfig, read(EvaluateConfig)
)
_register(
    lambda config: print(write_page(audit(config))),
    "audit",
    AuditConfig,
    read(AuditConfig),
)
_register(
    lambda config: federate_local(config),
    "federate local",
    LocalConfig,
    read(LocalConfig),
)
_register(
    lambda config: federate_init(config), "federate init", InitConfig, read(InitConfig)
)
_register(
    lambda config: federate_nvflare(config),
    "federate nvflare",
    NVFlareConfig,
    read(NVFlareConfig),
)
app.command(_FEDERATE)


def _train(config: TrainConfig) -> object:
    """Trains in one program, or with clients whose uploads the server cannot read."""
    return encrypted_train(config) if config.encrypted is True else train(config)


def _message(error: cyclopts.CycloptsError) -> str:
    """Returns what is wrong with a command line, in our words where they say more."""
    if isinstance(error, cyclopts.UnusedCliTokensError):
        return f"no option takes {', '.join(map(shown, error.unused_tokens or ()))}"
    if isinstance(error, cyclopts.MissingArgumentError) and error.argument:
        return f"{error.argument.name}: expected {error.argument.parameter.metavar}"
    if not isinstance(error, cyclopts.UnknownOptionError):
        return str(error).rstrip(".")
    name = (error.token.keyword or error.token.value).partition("=")[0]
    command = " ".join(error.command_chain or ())
    others = [other for other, names in _OPTIONS.items() if name in names]
    if others:
        return f"{command} has no option {name}: it is one of {others[0]}"
    close = difflib.get_close_matches(name, _OPTIONS.get(command, ()), 1, cutoff=0.8)
    return f"unknown option {name}" + "".join(f": did you mean {c}?" for c in close)


def _parse(arguments: Sequence[str]) -> Callable[[], object]:
    """Returns what is to be done.

    Raises:
      InputError: for words that are no command line.
    """
    if not arguments:
        raise InputError(f"name a command: {', '.join(_OPTIONS)} (see --help)")
    try:
        command, bound, _ = app.parse_args(
            list(arguments), print_error=False, exit_on_error=False
        )
    except cyclopts.CycloptsError as error:
        raise InputError(f"{_message(error)} (see --help)") from None
    return functools.partial(command, **bound.arguments)


_WITH_FILES = (
    *(["train"], ["sweep"], ["report"], ["export"], ["predict"]),
    *(["audit"], ["federate"]),
)
"""Commands whose results are files, whatever becomes of what they print."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
      arguments: the words after the program's name; those of the process by default.

    Returns:
      The exit status: 0; 2 for bad input, after one line on standard error; 143 and
      130 after SIGTERM and SIGINT, see `signals`; 1 if the memory was too small, after
      a line on standard error, or if the output was lost that was all there is. A
      process that is one of several ends here if it fails: with these or, when another
      one was lost, with 1.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with output.surviving() as stream:
        status = _run(arguments)
        if stream is not None:
            stream.flush()
            if stream.lost:
                print(
                    f"fedsparsify: standard output was lost: {stream.lost}",
                    file=sys.stderr,
                )
                status = status or int(list(arguments[:1]) not in _WITH_FILES)
    distributed.leave(status)
    return status


def _again(arguments: Sequence[str], out: Path | None) -> str:
    """Returns the command line that goes on with what was stopped.

    >>> _again(["train", "--rounds", "9"], Path("runs/one"))
    'fedsparsify train --rounds 9 --out runs/one --resume'
    """
    words = ["fedsparsify", *arguments]
    options = {word.split("=")[0].replace("_", "-") for word in arguments}
    if arguments[:1] == ["train"]:
        if "--out" not in options:
            words += ["--out", str(out or "DIR")]
        if "--resume" not in options:
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
            if not (lacking := exhausted(error)):
                raise
            print(f"fedsparsify: error: {lacking}; {_LESS_MEMORY}", file=sys.stderr)
            return 1
        print(f"fedsparsify: error: {distributed.lost(error)}", file=sys.stderr)
        return 1
    return 0
