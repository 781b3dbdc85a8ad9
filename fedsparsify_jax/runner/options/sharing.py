"""Options of ``fedsparsify sweep`` for several processes that work on one sweep."""

import dataclasses
import re
from typing import Annotated, Literal, NamedTuple

from fedsparsify_jax.errors import InputError, shown
from fedsparsify_jax.runner.options.rules import Grammar, at_least
from fedsparsify_jax.runner.options.schema import WITH_COMMAS, Heading, Shown

MOST = 10_000
"""Processes of one sweep."""


class Share(NamedTuple):
    """The place of a process among those of a sweep.

    Attributes:
      number: K, from 0.
      of: N.
    """

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @property
    def name(self) -> str:
        """Returns the same for a file system."""
        return f"{self.number}-of-{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Share":
        """Returns the share that a text means.

        Raises:
          InputError: unless it is K/N, K from 0 to N - 1.

        Example:
          >>> Share.parse("2/4")
          Share(number=2, of=4)
        """
        match = re.fullmatch(r"\s*(\d{1,9})\s*/\s*(\d{1,9})\s*", text, re.ASCII)
        number, of = map(int, match.groups()) if match else (0, 0)
        if not number < of <= MOST:
            raise InputError(
                f"--share is {shown(text)}: it must be K/N, this process K of N "
                f"counted from 0, such as 0/4 and 3/4, with N at most {MOST:,}"
            )
        return cls(number, of)


def engine_options(words: tuple[str, ...]) -> dict[str, int | float | str]:
    """Returns the options of a launcher by name, numbers as numbers.

    Raises:
      InputError: for what is no NAME=VALUE, or a name twice.

    Example:
      >>> engine_options(("timeout_min=60", "slurm_partition=gpu"))
      {'timeout_min': 60, 'slurm_partition': 'gpu'}
    """
    options: dict[str, int | float | str] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (equals and name.isidentifier() and text):
            raise InputError(
                f"--launcher-option is {shown(word)}: it must be NAME=VALUE, such as "
                "timeout_min=60"
            )
        if name in options:
            raise InputError(f"--launcher-option has {name} twice")
        options[name] = _number(text)
    return options


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@dataclasses.dataclass(frozen=True)
class SharingOptions:
    """Options that no run of the sweep has."""

    share: Annotated[
        str | None,
        Heading("Several processes"),
        Grammar(lambda text: str(Share.parse(text)), "K/N"),
    ] = None
    """Work on the sweep as process K of N, K from 0, beside others with the same
    command and a directory that all see: each trains what no other has claimed."""

    status: bool = False
    """Show how far the sweep in --out is, and who works on it; train nothing."""

    launcher: Literal["submitit", "ray"] | None = None
    """Start the processes as jobs: of SLURM, or of this machine where there is none
    (submitit), or of a Ray cluster."""

    workers: Annotated[int | None, at_least(1, below=2**13)] = None
    """Jobs of --launcher."""

    launcher_option: Annotated[
        tuple[str, ...], WITH_COMMAS, Shown(metavar="NAME=VALUE")
    ] = ()
    """What the launcher passes on: parameters of submitit's AutoExecutor such as
    timeout_min=60, slurm_partition=gpu; options of a Ray task such as num_gpus=1, and
    address=HOST:PORT."""


def check(
    share: str | None,
    launcher: str | None,
    workers: int | None,
    launcher_option: tuple[str, ...],
) -> None:
    """Refuses options that do not go together.

    Raises:
      InputError: naming them.

    Example:
      >>> check(None, "ray", 2, ()), check("0/2", None, None, ())
      (None, None)
    """
    if launcher is None:
        if workers is not None or launcher_option:
            raise InputError(
                "--workers and --launcher-option need --launcher submitit or ray"
            )
        return
    if share is not None:
        raise InputError(
            "--share and --launcher exclude each other: a launcher gives every job "
            "its share"
        )
    if workers is None:
        raise InputError(f"--launcher {launcher} needs --workers, how many jobs")
    engine_options(launcher_option)
