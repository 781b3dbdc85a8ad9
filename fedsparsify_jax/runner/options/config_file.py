"""``--config FILE``: options from a file, as words that the command line could have.

The file is JSON or TOML: options by name, with ``_`` or ``-``, or such a table under
``options``, which is what ``config.json`` of a run and ``sweep.json`` of a sweep have.
Words on the command line win over the file's.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError, shown, unknown
from fedsparsify_jax.runner.options.config import TrainConfig, having
from fedsparsify_jax.runner.options.schema import OF_ONE_START, Option, read

Words = bool | str | list[str]

_LARGEST = 1 << 20  # bytes; a configuration has some three thousand
_RIVALS = {"seed": "seeds", "seeds": "seed"}
"""Options that give way to another one on the command line."""


def beneath(
    words: Mapping[str, Any], path: str, options: Mapping[str, Option]
) -> dict[str, Any]:
    """Returns the words of a command line with a file's options beneath them.

    Args:
      words: switches and words by option.
      path: of the file.
      options: those of the command. Others of ``train`` are left out, and so is what
        says how one start runs.

    Raises:
      InputError: for a file that cannot be read or has other options.
    """
    merged: dict[str, Any] = {}
    for name, value in _table(path).items():
        field = name.replace("-", "_")
        if field in having(OF_ONE_START) or _RIVALS.get(field) in words:
            continue
        if field in options:
            merged[field] = _words(path, options[field], value)
        elif field not in read(TrainConfig):
            raise InputError(f"--config {path}: {unknown('option', name, options)}")
    return {name: value for name, value in merged.items() if value} | {**words}


def _words(path: str, option: Option, value: Any) -> Words | None:
    """Returns a value as words; nothing for what is not set or is switched off."""
    if value is None or isinstance(value, bool):
        return value
    values = value if isinstance(value, list) else [value]
    if len(values) > 1 and not option.several:
        raise InputError(
            f"--config {path}: {option.field} has {len(values)} values: train takes one"
        )
    for entry in values:
        if isinstance(entry, bool) or not isinstance(entry, str | int | float):
            raise InputError(
                f"--config {path}: {option.field} is {shown(value)}: it must be text, "
                "a number, true, false or a list"
            )
    words = [str(entry) for entry in values]
    return words if option.several else "".join(words)


def _table(path: str) -> Mapping[str, Any]:
    """Returns the table of options that a file has."""
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"--config {path}: too large for a configuration")
        text = file.read_text(encoding="utf-8")
        table = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"--config {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        kind = "TOML" if file.suffix == ".toml" else "JSON"
        raise InputError(f"--config {path}: no {kind}: {error}") from None
    if isinstance(table, dict) and isinstance(table.get("options"), dict):
        table = table["options"]
    if not isinstance(table, dict):
        raise InputError(f"--config {path}: it must be a table of options")
    return table
