"""The files of a run's checkpoints: which are whole, which stay.

checkpoints/
  20/               the checkpoint after round 20, there as a whole or not at all
    state/          arrays, see `checkpoints`
    config.json     the run's own, as it was then
    metrics.jsonl   all rounds up to it
    manifest.json   checksums, see `manifest`
  saving-30/        on its way, or what a kill left of it: removed at the next start
  damaged-20/       did not stand its check and was set aside; never removed
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.storage import manifest

Record = dict[str, Any]

STATE, CONFIG, METRICS = "state", "config.json", "metrics.jsonl"
_SAVING, _REMOVING, _DAMAGED = "saving-", "removing-", "damaged-"


class Saved(NamedTuple):
    """What a checkpoint has beside the arrays.

    Attributes:
      round: completed ones.
      config: the content of ``config.json``.
      records: of all rounds up to it.
    """

    round: int
    config: dict[str, Any]
    records: list[Record]


def place_of(directory: Path, completed: int) -> Path:
    """Where the checkpoint after so many rounds is written before it is whole."""
    return directory / f"{_SAVING}{completed}"


def rounds(directory: Path) -> list[int]:
    """The rounds of which there is a checkpoint, good or not, in order."""
    if not directory.is_dir():
        return []
    names = [path.name for path in directory.iterdir() if path.is_dir()]
    return sorted(int(name) for name in names if re.fullmatch(r"[1-9]\d{0,17}", name))


def finish(
    directory: Path,
    completed: int,
    config: dict[str, Any],
    records: Iterable[Record],
    value: float | None,
    layout: Sequence[str] = (),
) -> None:
    """Makes a checkpoint of what was written to `place_of`.

    Args:
      directory: of all checkpoints.
      completed: rounds.
      config: the content of ``config.json``.
      records: of all rounds.
      value: what the round is judged by, None if it was not evaluated.
      layout: the arrays of the state with their dtypes and shapes.
    """
    place = place_of(directory, completed)
    (place / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (place / METRICS).write_text(lines, encoding="utf-8")
    about = {"round": completed, "value": value, "run": config.get("run")}
    manifest.seal(place, about | {"state": list(layout)})
    os.rename(place, directory / str(completed))
    manifest.to_disk(directory)


def _complaints(directory: Path, completed: int, run: str | None) -> list[str]:
    """What is wrong with a checkpoint; nothing if it is good."""
    path = directory / str(completed)
    content = manifest.read(path)
    if isinstance(content, str):
        return [content]
    about = content["about"]
    if about.get("round") != completed:
        return [f"it is the checkpoint of round {about.get('round')}"]
    if run is not None and about.get("run") != run:
        return ["it is of another run"]
    return manifest.damage(path)


def newest(
    directory: Path, run: str | None = None
) -> tuple[Saved | None, dict[int, list[str]]]:
    """Looks for the newest good checkpoint; changes nothing.

    Args:
      directory: of all checkpoints.
      run: the run's name for itself, None if that is not known.

    Returns:
      It, None if there is none; and what is wrong with each newer one.
    """
    damaged: dict[int, list[str]] = {}
    for completed in reversed(rounds(directory)):
        complaints = _complaints(directory, completed, run)
        if not complaints:
            path = directory / str(completed)
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            lines = (path / METRICS).read_text(encoding="utf-8").splitlines()
            records = [json.loads(line) for line in lines]
            return Saved(completed, config, records), damaged
        damaged[completed] = complaints
    return None, damaged


def _told(complaints: list[str]) -> str:
    more = f" and {len(complaints) - 3} more" if len(complaints) > 3 else ""
    return ", ".join(complaints[:3]) + more


def newest_or_refuse(
    directory: Path, run: str | None = None
) -> tuple[Saved | None, dict[int, str]]:
    """`newest`, where damage is no reason to begin from the start without a word.

    Returns:
      The newest good checkpoint, None if none was ever finished; and what is wrong
      with each newer one, in a few words.

    Raises:
      InputError: if there are checkpoints, but no good one.
    """
    found, damaged = newest(directory, run)
    told = {completed: _told(wrong) for completed, wrong in damaged.items()}
    aside = directory.is_dir() and any(directory.glob(f"{_DAMAGED}*"))
    if found is None and (told or aside):
        which = "; ".join(f"round {number}: {wrong}" for number, wrong in told.items())
        raise InputError(
            f"no checkpoint in {directory} is whole ({which or 'all are set aside'}): "
            "put back a copy of one, remove that directory to begin again with round "
            "1, or name another --out"
        )
    return found, told


def set_aside(directory: Path, completed: int) -> Path:
    """Renames a damaged checkpoint, so that its place is free; says to what."""
    aside = directory / f"{_DAMAGED}{completed}"
    number = 1
    while aside.exists():
        number += 1
        aside = directory / f"{_DAMAGED}{completed}-{number}"
    os.rename(directory / str(completed), aside)
    return aside


def clean(directory: Path) -> None:
    """Removes what a kill has left of saving and removing."""
    if directory.is_dir():
        for path in directory.iterdir():
            if path.name.startswith((_SAVING, _REMOVING)):
                shutil.rmtree(path, ignore_errors=True)


def kept(
    values: dict[int, float | None], last: int, best: int, higher_is_better: bool
) -> set[int]:
    """The rounds whose checkpoints stay.

    Args:
      values: of every round with a checkpoint what it is judged by, if it is.
      last: how many of the latest stay.
      best: how many of the best stay, whether or not they are among those; the
        earlier one of two that are equal.
      higher_is_better: which values are best.

    Example:
      >>> kept({10: 0.5, 20: 0.9, 30: None, 40: 0.7}, 1, 1, True)
      {40, 20}
    """
    sign = -1 if higher_is_better else 1
    judged = [(sign * v, number) for number, v in values.items() if v is not None]
    latest = sorted(values)[len(values) - min(last, len(values)) :]
    return {*latest, *(number for _, number in sorted(judged)[:best])}


def other_layout(directory: Path, completed: int, layout: Sequence[str]) -> str:
    """The first array in which a checkpoint differs from ``layout``; "" if none does.

    Args:
      directory: of all checkpoints.
      completed: rounds of the one meant, which is whole.
      layout: as for `finish`.
    """
    content = manifest.read(directory / str(completed))
    if isinstance(content, str):
        return content
    has = content["about"].get("state", [])
    both = itertools.zip_longest(has, layout, fillvalue="nothing")
    for one, other in both:
        if one != other:
            return f"has {one} where this run has {other}"
    return ""


def _value(path: Path) -> float | None:
    content = manifest.read(path)
    return None if isinstance(content, str) else content["about"].get("value")


def thin_out(directory: Path, last: int, best: int, higher_is_better: bool) -> None:
    """Removes the checkpoints that `kept` does not name; none is ever there in part."""
    values = {number: _value(directory / str(number)) for number in rounds(directory)}
    for number in values.keys() - kept(values, last, best, higher_is_better):
        going = directory / f"{_REMOVING}{number}"
        os.rename(directory / str(number), going)
        shutil.rmtree(going, ignore_errors=True)
