"""``--config FILE``: options from a file, as words of the command line.

The file is JSON or TOML: options by name, with ``_`` or ``-``, or such a table under
``options``, which is what ``config.json`` of a run and ``sweep.json`` of a sweep have.
Words on the command line win over the file's.
"""

import json
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError, shown, unknown
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.schema import flag, read
from fedsparsify_jax.runner.options.sweep_config import OPTIONS, SINGLE

FLAG = "--config"
COMMANDS = ("train", "sweep")

_LARGEST = 1 << 20  # bytes; a configuration has some three thousand
_OF_A_START = (
    "out",
    "resume",
    "allow_changes",
    "coordinator",
    "num_processes",
    "process_id",
)
"""Options that say where and how one start runs, and nothing of the next one."""
_RIVALS = {"seed": "--seeds", "seeds": "--seed"}
"""Options that give way to another one on the command line."""


def expanded(arguments: Sequence[str]) -> list[str]:
    """The words of a command line with those of its file in front.

    Args:
      arguments: the words after the program's name.

    Raises:
      InputError: for a file that cannot be read or has no such options.

    Example:
      >>> expanded(["train", "--rounds", "9"])
      ['train', '--rounds', '9']
    """
    words = list(arguments)
    if not words or words[0] not in COMMANDS:
        return words
    command, rest = words[0], words[1:]
    there = [n for n, word in enumerate(rest) if word.partition("=")[0] == FLAG]
    if not there:
        return words
    if len(there) > 1:
        raise InputError(f"{FLAG} is given {len(there)} times: give one file")
    (at,) = there
    name, given, path = rest[at].partition("=")
    after = rest[at + 1 :]
    if not given and after:
        path, *after = after
    if not path or path.startswith("--"):
        raise InputError(f"{name}: expected the path of a JSON or TOML file")
    beside = [*rest[:at], *after]
    return [command, *_words(Path(path), command, beside), *beside]


def _words(path: Path, command: str, beside: Sequence[str]) -> list[str]:
    known = {"seeds", *OPTIONS} if command == "sweep" else set(read(TrainConfig))
    given = {word.partition("=")[0] for word in beside}
    left_out = {*_OF_A_START, *(SINGLE if command == "sweep" else ())}
    left_out |= {field for field, other in _RIVALS.items() if other in given}
    words = []
    for name, value in _options(path).items():
        field = name.replace("-", "_")
        if field in left_out:
            continue
        if field not in known:
            raise InputError(f"{FLAG} {path}: {unknown('option', name, known)}")
        words += _word(path, field, value, one=command == "train")
    return words


def _word(path: Path, field: str, value: Any, one: bool) -> list[str]:
    """An option as words; none for what is not given or is switched off."""
    if value is None or value is False:
        return []
    if value is True:
        return [flag(field)]
    values = value if isinstance(value, list) else [value]
    one = one and not read(TrainConfig)[field].several
    if one and len(values) > 1:
        raise InputError(
            f"{FLAG} {path}: {field} has {len(values)} values: train takes one"
        )
    for each in values:
        if isinstance(each, bool) or not isinstance(each, str | int | float):
            raise InputError(
                f"{FLAG} {path}: {field} is {shown(value)}: it must be text, a number, "
                "true, false or a list"
            )
    texts = [str(each) for each in values]
    # With "=" a value may start with a hyphen.
    return [f"{flag(field)}={texts[0]}"] if len(texts) == 1 else [flag(field), *texts]


def _options(path: Path) -> Mapping[str, Any]:
    """The table of options that a file has."""
    try:
        if path.stat().st_size > _LARGEST:
            raise InputError(f"{FLAG} {path}: too large for a configuration")
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"{FLAG} {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if path.suffix == ".toml" else "JSON"
        raise InputError(f"{FLAG} {path}: no {kind}: {error}") from None
    if isinstance(found, dict) and isinstance(found.get("options"), dict):
        found = found["options"]
    if not isinstance(found, dict):
        raise InputError(f"{FLAG} {path}: it must be a table of options")
    return found
