"""The files of checkpoints: which are whole, which stay.

checkpoints/
  20/               the checkpoint after round 20, there as a whole or not at all
    state/          arrays, see `checkpoints`
    config.json     that of the run, as it was then
    metrics.jsonl   all rounds up to it
    messages        which masks clients have, of runs that measure their messages
    manifest.json   checksums, see `manifest`
  saving-30/        on its way, or what a kill left of it: removed at the next start
  damaged-20/       failed its check and was set aside; never removed
"""

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from fedsparsify_jax.errors import InputError
from fedsparsify_jax.runner.storage import manifest

Record = dict[str, Any]

STATE, CONFIG, METRICS = "state", "config.json", "metrics.jsonl"
MESSAGES = "messages"
_SAVING, _REMOVING, _DAMAGED = "saving-", "removing-", "damaged-"


class Saved(NamedTuple):
    """Contents of a checkpoint beside the arrays.

    Attributes:
      round: the last completed one.
      config: the content of ``config.json``.
      records: of all rounds up to it.
    """

    round: int
    config: dict[str, Any]
    records: list[Record]


class Inventory(NamedTuple):
    """The checkpoints in a directory, judged by their checksums.

    Attributes:
      directory: of all of them.
      newest: the newest whole one, None if there is none.
      damaged: newer ones by round, with what is wrong in a few words.
      set_aside: names of those that were set aside before.
    """

    directory: Path
    newest: Saved | None = None
    damaged: Mapping[int, str] = MappingProxyType({})
    set_aside: frozenset[str] = frozenset()

    def newest_or_refuse(self) -> Saved | None:
        """Returns the newest whole checkpoint, None if none was ever finished.

        Raises:
          InputError: if all are damaged: beginning again in silence would be wrong.
        """
        if self.newest is None and (self.damaged or self.set_aside):
            which = [f"round {number}: {why}" for number, why in self.damaged.items()]
            raise InputError(
                f"no checkpoint in {self.directory} is whole "
                f"({'; '.join(which) or 'all are set aside'}): put back a copy of one, "
                "remove that directory to begin again with round 1, or name another "
                "--out"
            )
        return self.newest

    def renames(self) -> dict[str, str]:
        """Returns new names for damaged checkpoints, so that their places are free."""
        names = {}
        for completed in self.damaged:
            aside, number = f"{_DAMAGED}{completed}", 1
            while aside in self.set_aside:
                number += 1
                aside = f"{_DAMAGED}{completed}-{number}"
            names[str(completed)] = aside
        return names


def place_of(directory: Path, completed: int) -> Path:
    """Returns where a checkpoint is written until it is whole."""
    return directory / f"{_SAVING}{completed}"


def rounds(directory: Path) -> list[int]:
    """Returns the rounds of all checkpoints, whole or not, in order."""
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
    more: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Makes a checkpoint of what was written to `place_of`.

    Args:
      directory: of all checkpoints.
      completed: rounds.
      config: content of ``config.json``.
      records: of all rounds.
      value: that the round is judged by, None if it was not evaluated.
      layout: the arrays of the state with their dtypes and shapes.
      more: contents of other files, by name.
    """
    place = place_of(directory, completed)
    (place / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (place / METRICS).write_text(lines, encoding="utf-8")
    for name, contents in more.items():
        (place / name).write_bytes(contents)
    about = {"round": completed, "value": value, "run": config.get("run")}
    manifest.seal(place, about | {"state": list(layout)})
    os.rename(place, directory / str(completed))
    manifest.to_disk(directory)


def _complaints(directory: Path, completed: int, run: str | None) -> list[str]:
    """Returns what is wrong with a checkpoint, nothing if it is whole."""
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


def _shortened(complaints: list[str]) -> str:
    more = f" and {len(complaints) - 3} more" if len(complaints) > 3 else ""
    return ", ".join(complaints[:3]) + more


def read(directory: Path, run: str | None = None) -> Inventory:
    """Reads checkpoints from the newest to the first whole one; changes nothing.

    Args:
      directory: of all checkpoints; need not exist.
      run: the run's name for itself, None if that is unknown.
    """
    newest, damaged = None, {}
    for completed in reversed(rounds(directory)):
        complaints = _complaints(directory, completed, run)
        if not complaints:
            path = directory / str(completed)
            config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
            lines = (path / METRICS).read_text(encoding="utf-8").splitlines()
            newest = Saved(completed, config, [json.loads(line) for line in lines])
            break
        damaged[completed] = _shortened(complaints)
    aside = directory.glob(f"{_DAMAGED}*") if directory.is_dir() else ()
    return Inventory(directory, newest, damaged, frozenset(path.name for path in aside))


def tidy(directory: Path, renames: Mapping[str, str]) -> None:
    """Sets damaged checkpoints aside, and removes what a kill left of saving.

    Args:
      directory: of all checkpoints; need not exist.
      renames: see `Inventory.renames`.
    """
    for name, aside in renames.items():
        os.rename(directory / name, directory / aside)
    if directory.is_dir():
        for path in directory.iterdir():
            if path.name.startswith((_SAVING, _REMOVING)):
                shutil.rmtree(path, ignore_errors=True)


def kept(
    values: dict[int, float | None], last: int, best: int, higher_is_better: bool
) -> set[int]:
    """Returns the rounds whose checkpoints stay.

    Args:
      values: that rounds with a checkpoint are judged by, None if not evaluated.
      last: number of the latest that stay.
      best: number of the best that stay, be they among the latest or not; of two
        that are equal the earlier one.
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
    """Returns the first array that differs from ``layout``; "" if none does.

    Args:
      directory: of all checkpoints.
      completed: rounds of the one meant, which is whole.
      layout: as for `finish`.
    """
    content = manifest.read(directory / str(completed))
    if isinstance(content, str):
        return content
    saved = content["about"].get("state", [])
    for one, other in itertools.zip_longest(saved, layout, fillvalue="nothing"):
        if one != other:
            return f"has {one} where this run has {other}"
    return ""


def _value(path: Path) -> float | None:
    content = manifest.read(path)
    return None if isinstance(content, str) else content["about"].get("value")


def thin_out(directory: Path, last: int, best: int, higher_is_better: bool) -> None:
    """Removes the checkpoints that `kept` does not name, each in one step."""
    values = {number: _value(directory / str(number)) for number in rounds(directory)}
    for number in values.keys() - kept(values, last, best, higher_is_better):
        removing = directory / f"{_REMOVING}{number}"
        os.rename(directory / str(number), removing)
        shutil.rmtree(removing, ignore_errors=True)
