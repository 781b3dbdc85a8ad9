"""Options of ``fedsparsify audit``, and the rules about several of them."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from fedsparsify_jax.errors import InputError, unknown
from fedsparsify_jax.runner.options.rules import Grammar, Rule, at_least
from fedsparsify_jax.runner.options.schema import POSITIONAL, Shown, check

PLAIN = ("loss", "gradient", "layer")
"""Attacks that need no shadow models."""
LIRA = ("lira-online", "lira-offline")
"""Attacks that compare with shadow models."""
ATTACKS = (*PLAIN, *LIRA)

Threat = Literal["outsider", "server"]
NonMembers = Literal["test", "clients"]


def _attacks(text: str) -> str:
    """Returns the usual spelling of a list of attacks.

    Raises:
      InputError: for a name that is none of them.

    >>> _attacks("lira-online, loss")
    'loss,lira-online'
    """
    names = [word.strip().lower().replace("_", "-") for word in text.split(",")]
    for name in names:
        if name not in ATTACKS:
            raise InputError(f"--attacks: {unknown('attack', name, ATTACKS)}")
    return ",".join(name for name in ATTACKS if name in names)


SHADOWS = Rule(
    lambda number: number == 0 or (number % 2 == 0 and 4 <= number < 2**15),
    "0, or an even number of at least 4",
)


@dataclasses.dataclass(frozen=True)
class AuditConfig:
    """Attack a finished run: can examples it was trained on be told from others?

    Writes audit.json, roc.npz, audit.md and roc.svg into RUN/audit.
    """

    run: Annotated[
        tuple[Path, ...], POSITIONAL, Shown("RUN", hint="a finished run")
    ] = ()
    """Directory of the run."""
    threat: Threat = "outsider"
    """Who attacks: an outsider who has the final model, or a curious server that has
    one client's upload."""
    attacks: Annotated[
        str | None,
        Grammar(_attacks, "NAME,NAME,..."),
        Shown(hint=f"{', '.join(ATTACKS)}; default: all that are possible"),
    ] = None
    """Attacks, with commas between them."""
    shadow_runs: Annotated[int, SHADOWS] = 0
    """Shadow runs that lira-online and lira-offline compare with, each on a random half
    of all examples."""
    shadows_at_once: Annotated[int, at_least(1)] = 8
    """Shadow runs in one call of their program; bounds memory."""
    examples: Annotated[int, at_least(4)] = 2000
    """Examples that are attacked at most, as many members as others."""
    client: Annotated[
        int | None, at_least(0), Shown(hint="of the threat server; default: 0")
    ] = None
    """Number of the client whose upload is attacked."""
    non_members: NonMembers = "test"
    """Examples that members are told from: the test set's, or other clients' (of the
    threat server)."""
    data_dir: Annotated[Path | None, Shown(hint="default: the run's")] = None
    """Where the data set's files are now."""
    seed: Annotated[int, at_least(0)] = 0
    """Seed of all draws of the audit."""
    out: Annotated[Path | None, Shown("PATH", hint="default: RUN/audit")] = None
    """Directory to write."""


def resolved(config: AuditConfig) -> AuditConfig:
    """Returns the options with their defaults, checked one by one and together.

    Raises:
      InputError: naming the option, its value and what is allowed.

    Example:
      >>> resolved(AuditConfig(threat="server")).client
      0
      >>> resolved(AuditConfig(shadow_runs=16)).attacks
      'loss,gradient,layer,lira-online,lira-offline'
    """
    config = dataclasses.replace(config, **check(config))
    attacks = config.attacks or ",".join(ATTACKS if config.shadow_runs else PLAIN)
    compared = [name for name in attacks.split(",") if name in LIRA]
    if compared and not config.shadow_runs:
        raise InputError(
            f"--attacks {','.join(compared)} compares with shadow models: say how many "
            "by --shadow-runs, such as 16"
        )
    if config.shadow_runs and not compared:
        raise InputError(
            f"--shadow-runs goes with the attacks {' and '.join(LIRA)}, not with "
            f"{attacks}"
        )
    if config.threat == "outsider" and config.client is not None:
        raise InputError(
            "--client goes with --threat server: an outsider has no client's upload"
        )
    if config.threat == "outsider" and config.non_members != "test":
        raise InputError(
            f"--non-members {config.non_members} goes with --threat server: all "
            "clients' examples are members of the final model"
        )
    client = (config.client or 0) if config.threat == "server" else None
    return dataclasses.replace(config, attacks=attacks, client=client)
