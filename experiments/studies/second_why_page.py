"""The page of `second_why`: tables and figures from its committed lines."""

import dataclasses
from typing import Any

NAME = "second_why"
_HELP = {"cohort_sampling": "representative", "server_lookahead": 0.5}


@dataclasses.dataclass(frozen=True)
class Arm:
    """A method of the study: its name for readers and its options."""

    label: str
    options: dict[str, Any]


METHODS = {
    "control": Arm("Global, momentum and average", {"algorithm": "fedsparsify-global"}),
    "helped": Arm(
        "Global, with all help", {"algorithm": "fedsparsify-global", **_HELP}
    ),
    "first": Arm("FedSparsify-Plus", {"algorithm": "fedsparsify-plus"}),
    "second": Arm(
        "FedSparsify-Plus, second edition", {"algorithm": "fedsparsify-plus", **_HELP}
    ),
}
