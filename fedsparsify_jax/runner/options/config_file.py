"""``--config FILE``: options from a file, as words that the command line could have.

The file is JSON or TOML: options by name, with ``_`` or ``-``, or such a table under
``options``, which is what ``config.json`` of a run and ``sweep.json`` of a sweep have.
Values have their natural form: true and false also for ``on|off``, 2.0 for a whole
number, [3, 2, 1] for numbers that the command line divides by commas. What the command
line has wins over the file.
"""

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsparsify_jax.errors import InputError, shown, unknown
from fedsparsify_jax.runner.options.config import TrainConfig
from fedsparsify_jax.runner.options.listing import having
from fedsparsify_jax.runner.options.rules import flag
from fedsparsify_jax.runner.options.schema import (
    OF_ONE_START,
    WITH_COMMAS,
    Option,
    read,
)

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
        if field in merged:
            raise InputError(f"--config {path}: {name} is there twice")
        if field in having(OF_ONE_START) or _RIVALS.get(field) in words:
            continue
        if field in options:
            merged[field] = value
        elif field not in read(TrainConfig):
            raise InputError(f"--config {path}: {unknown('option', name, options)}")
    try:
        lower = {
            field: _words(options[field], value)
            for field, value in merged.items()
            if field not in words and value not in (None, [])
        }
    except InputError as error:
        raise InputError(f"--config {path}: {error}") from None
    return lower | {**words}


def _words(option: Option, value: Any) -> Words:
    """Returns a file's value as the command line would have it, checked."""
    entries = value if isinstance(value, list) else [value]
    as_one = option.kind is str and WITH_COMMAS in option.traits
    if as_one and (not option.several or not _has_texts_or_lists(entries)):
        entries = [entries]
    if len(entries) > 1 and not option.several:
        raise InputError(
            f"{flag(option.field)} has {len(entries)} values: train takes one"
        )
    if option.kind is bool and isinstance(entries[0], bool):
        return entries[0]
    words = [_word(option, entry, value) for entry in entries]
    if option.raw:  # texts are the sweep's to divide and to read
        one = option._replace(raw=False, several=False)
        for word, entry in zip(words, entries, strict=True):
            if not isinstance(entry, str):
                one.parse(word)
    typed: Words = words if option.several else words[0]
    option.parse(typed)
    return typed


def _has_texts_or_lists(entries: list[Any]) -> bool:
    return any(isinstance(entry, str | list) for entry in entries)


def _word(option: Option, entry: Any, value: Any) -> str:
    """Returns one entry of an option's value as a word."""
    if isinstance(entry, bool):
        word = "on" if entry else "off"
        if word in (option.metavar or "").split("|"):
            return word
    elif isinstance(entry, float) and option.kind is int and entry.is_integer():
        return str(int(entry))
    elif isinstance(entry, str | int | float):
        return str(entry)
    elif isinstance(entry, list) and WITH_COMMAS in option.traits:
        return ",".join(_word(option, part, value) for part in entry)
    allowed = option.metavar or "true or false"
    raise option.refusal(value, f"text, a number or a list that means {allowed}")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Returns a JSON object; Python's reader would let the last of two keys win."""
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {shown(key)} is there twice")
        table[key] = value
    return table


def _table(path: str) -> Mapping[str, Any]:
    """Returns the table of options that a file has."""
    file = Path(path)
    try:
        if file.stat().st_size > _LARGEST:
            raise InputError(f"--config {path}: too large for a configuration")
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix == ".toml":
            table = tomllib.loads(text)
        else:
            table = json.loads(text, object_pairs_hook=_no_repeats)
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
