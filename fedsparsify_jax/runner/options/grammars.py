"""Options whose values are texts of some form."""

import re
from typing import Any

from fedsparsify_jax import data
from fedsparsify_jax.data.sources.hub import PREFIX
from fedsparsify_jax.engine.wrappers.faults import Chance, Faults, within
from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.pruning.patterns import CHANNEL, UNSTRUCTURED, groups_of
from fedsparsify_jax.runner.options.rules import Choice, Grammar

_FAULTS = "dropout=P,straggle=P:SHARE,nan=P"
_FAULTS_FORM = f"{_FAULTS}, each may end in @ROUND or @FROM-TO"
_FAULT_KINDS = ("dropout", "straggle", "nan")
_PROBABILITY = re.compile(r"[0-9]*\.?[0-9]+([eE]-?[0-9]+)?")
_ROUNDS = re.compile(r"([0-9]{1,9})(?:-([0-9]{1,9}))?")


def data_set(name: str) -> str:
    """Returns the usual spelling of a data set's name; names of the hub stay.

    Raises:
      InputError: if there is no such data set.

    >>> data_set("Fashion-MNIST"), data_set("hf:owner/name")
    ('fashion_mnist', 'hf:owner/name')
    """
    if name.startswith(PREFIX):
        data.parse_hub_name(name)
        return name
    return Choice(data.NAMES).canonical("dataset", name, "data set")


def client_sizes(text: str) -> list[int]:
    """Returns the proportions of client sizes that ``--client-sizes`` names.

    Raises:
      InputError: if it is no list of them.

    >>> client_sizes("3,2,1")
    [3, 2, 1]
    """
    if text in data.BRAIN_AGE_SIZES:
        return list(data.BRAIN_AGE_SIZES[text])
    words = text.split(",")
    sizes = [int(word) for word in words if word.isdecimal() and len(word) < 10]
    if len(sizes) < len(words) or min(sizes) < 1:
        raise InputError(
            f"--client-sizes is {shown(text)}: expected whole numbers such as 30,20,10 "
            f"of at least 1, or one of {', '.join(sorted(data.BRAIN_AGE_SIZES))}"
        )
    return sizes


def _sizes(text: str) -> str:
    client_sizes(text)
    return text


def levels(text: str) -> tuple[float, ...]:
    """Returns the sparsities that ``--levels`` names.

    Raises:
      InputError: if they are none, or do not rise.

    >>> levels("0.8,0.95")
    (0.8, 0.95)
    """
    words = text.split(",")
    numbers = tuple(float(word) for word in words if _PROBABILITY.fullmatch(word))
    rising = sorted({*numbers}) == list(numbers)
    if len(numbers) < len(words) or not rising or numbers[-1] >= 1:
        raise InputError(
            f"--levels is {shown(text)}: expected rising sparsities of at least 0 and "
            "below 1, such as 0.8,0.9,0.95"
        )
    return numbers


def _levels(text: str) -> str:
    levels(text)
    return text


def widths(text: str) -> tuple[float, ...]:
    """Returns the shares of units that ``--widths`` names.

    Raises:
      InputError: if it is no list of them.

    >>> widths("1,0.5")
    (1.0, 0.5)
    """
    words = text.replace(" ", "").split(",")
    shares = tuple(float(word) for word in words if _PROBABILITY.fullmatch(word))
    if len(shares) < len(words) or not all(0 < share <= 1 for share in shares):
        raise InputError(
            f"--widths is {shown(text)}: expected shares such as 1,0.5,0.25, each "
            "above 0 and at most 1"
        )
    return shares


def _widths(text: str) -> str:
    widths(text)
    return text


def _refusal(text: str, why: str) -> InputError:
    return InputError(f"--faults is {text!r}: {why} (expected {_FAULTS_FORM})")


def _probability(text: str, word: str, what: str, *, above_zero: bool = False) -> float:
    if not _PROBABILITY.fullmatch(word):
        raise _refusal(text, f"{what} is {word!r}, not a number")
    value = float(word)
    if value > 1 or (above_zero and value == 0):
        allowed = "above 0 and at most 1" if above_zero else "between 0 and 1"
        raise _refusal(text, f"{what} is {word}, it must be {allowed}")
    return value


def _confined(text: str, probability: float, word: str) -> Chance:
    """Returns a probability that holds in the rounds of ``5`` or ``5-9`` alone."""
    match = _ROUNDS.fullmatch(word)
    if not match:
        raise _refusal(text, f"{word!r} is neither a round nor rounds FROM-TO")
    first, last = int(match[1]), int(match[2] or match[1])
    if not 1 <= first <= last:
        raise _refusal(text, f"the rounds {word} do not count up from 1")
    return within(probability, first, last)


def faults(text: str) -> Faults:
    """Returns the faults that ``--faults`` describes.

    Args:
      text: entries with commas between them, each ``dropout=P``, ``straggle=P`` or
        ``straggle=P:SHARE`` (of the local steps that are made, 0.5 by default), or
        ``nan=P``, where P is the probability for one client in one round. ``@5`` or
        ``@5-9`` behind an entry confines it to these rounds.

    Raises:
      InputError: one line that says what is wrong and what is expected.

    Example:
      >>> faults("dropout=0.1,straggle=0.2:0.25")
      Faults(dropout=0.1, straggle=0.2, effort=0.25, broken=0.0)
    """
    chances: dict[str, Chance] = {}
    effort = Faults().effort
    for entry in text.replace(" ", "").split(","):
        kind, equals, value = entry.partition("=")
        if kind not in _FAULT_KINDS or not equals:
            kinds = ", ".join(_FAULT_KINDS)
            raise _refusal(text, f"{entry!r} is none of {kinds} with a probability")
        if kind in chances:
            raise _refusal(text, f"{kind} is there twice")
        value, at, rounds = value.partition("@")
        value, colon, share = value.partition(":")
        if colon and kind != "straggle":
            raise _refusal(text, f"{kind} takes no share of steps")
        if colon:
            what = "the share of a straggler's steps"
            effort = _probability(text, share, what, above_zero=True)
        probability = _probability(text, value, f"the probability of {kind}")
        chances[kind] = _confined(text, probability, rounds) if at else probability
    return Faults(
        dropout=chances.get("dropout", 0.0),
        straggle=chances.get("straggle", 0.0),
        effort=effort,
        broken=chances.get("nan", 0.0),
    )


def _faults(text: str) -> str:
    faults(text)
    return text


def pattern(text: str) -> str:
    """Returns the usual spelling of a pattern of what is pruned.

    Raises:
      InputError: if it is none.

    >>> pattern("Channel"), pattern("2:4")
    ('channel', '2:4')
    """
    text = text.strip().lower()
    try:
        groups_of(text)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    return text


DATA_SET = Grammar(data_set, "|".join([*data.NAMES, "hf:OWNER/NAME"]))


def _epochs(number: float) -> float:
    """Returns whole numbers as such, as they were before there were others.

    >>> _epochs(4.0), _epochs(0.5)
    (4, 0.5)
    """
    return int(number) if number == int(number) else number


EPOCHS: Any = Grammar(_epochs, "FLOAT")  # type: ignore[arg-type]
CLIENT_SIZES = Grammar(_sizes, "|".join(["INT,INT,...", *sorted(data.BRAIN_AGE_SIZES)]))
WIDTHS = Grammar(_widths, "SHARE,SHARE,...")
FAULTS = Grammar(_faults, _FAULTS)
PATTERN = Grammar(pattern, f"{UNSTRUCTURED}|N:M|{CHANNEL}")
LEVELS = Grammar(_levels, "FLOAT,FLOAT,...")
