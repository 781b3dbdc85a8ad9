"""Settings of the machines of a federation, beside the options of its run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class ServerSettings:
    """The settings of the server.

    Attributes:
      own_data: whether every node has data of its own; if not, each takes its part of
        the server's data set, for a trial.
      join_timeout: seconds that the clients are waited for at the start, to join and
        to compile.
      round_timeout: seconds that the answers of a round are waited for.
    """

    own_data: bool = False
    join_timeout: float = 600.0
    round_timeout: float = 3600.0
