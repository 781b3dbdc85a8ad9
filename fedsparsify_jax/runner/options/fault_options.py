"""What ``--faults`` says: ``dropout=0.1,straggle=0.2:0.5,nan=0.05@10-20``."""

import re
from typing import NamedTuple

from fedsparsify_jax.engine.wrappers.faults import Chance, Faults, within
from fedsparsify_jax.errors import InputError

FORM = "dropout=P,straggle=P:SHARE,nan=P, each may end in @ROUND or @FROM-TO"
_KINDS = ("dropout", "straggle", "nan")
_NUMBER = re.compile(r"[0-9]*\.?[0-9]+([eE]-?[0-9]+)?")


class _Rounds(NamedTuple):
    first: int
    last: int


def _refuse(text: str, why: str) -> InputError:
    return InputError(f"--faults is {text!r}: {why} (expected {FORM})")


def _probability(text: str, word: str, what: str, *, above_zero: bool = False) -> float:
    if not _NUMBER.fullmatch(word):
        raise _refuse(text, f"{what} is {word!r}, not a number")
    value = float(word)
    if value > 1 or (above_zero and value == 0):
        allowed = "above 0 and at most 1" if above_zero else "between 0 and 1"
        raise _refuse(text, f"{what} is {word}, it must be {allowed}")
    return value


def _rounds(text: str, word: str) -> _Rounds:
    found = re.fullmatch(r"([0-9]{1,9})(?:-([0-9]{1,9}))?", word)
    if not found:
        raise _refuse(text, f"{word!r} is neither a round nor rounds FROM-TO")
    first, last = int(found[1]), int(found[2] or found[1])
    if not 1 <= first <= last:
        raise _refuse(text, f"the rounds {word} do not count up from 1")
    return _Rounds(first, last)


def parse(text: str) -> Faults:
    """The faults that a text describes.

    Args:
      text: entries with commas between them, each ``dropout=P``, ``straggle=P`` or
        ``straggle=P:SHARE`` (of the local steps that are made, 0.5 by default), or
        ``nan=P``, where P is the probability for one client in one round. ``@5`` or
        ``@5-9`` behind an entry confines it to these rounds.

    Raises:
      InputError: one line that says what is wrong and what is expected.

    Example:
      >>> parse("dropout=0.1,straggle=0.2:0.25")
      Faults(dropout=0.1, straggle=0.2, effort=0.25, broken=0.0)
    """
    found: dict[str, Chance] = {}
    effort = Faults().effort
    for entry in text.replace(" ", "").split(","):
        kind, equals, said = entry.partition("=")
        if kind not in _KINDS or not equals:
            kinds = ", ".join(_KINDS)
            raise _refuse(text, f"{entry!r} is none of {kinds} with a probability")
        if kind in found:
            raise _refuse(text, f"{kind} is there twice")
        said, at, rounds = said.partition("@")
        said, colon, share = said.partition(":")
        if colon and kind != "straggle":
            raise _refuse(text, f"{kind} takes no share of steps")
        if colon:
            effort = _probability(
                text, share, "the share of a straggler's steps", above_zero=True
            )
        chance: Chance = _probability(text, said, f"the probability of {kind}")
        if at:
            assert isinstance(chance, float)
            chance = within(chance, *_rounds(text, rounds))
        found[kind] = chance
    return Faults(
        dropout=found.get("dropout", 0.0),
        straggle=found.get("straggle", 0.0),
        effort=effort,
        broken=found.get("nan", 0.0),
    )
