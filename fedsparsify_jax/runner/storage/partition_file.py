"""What every client holds, for reports: the content of ``partition.json``."""

from collections.abc import Sequence
from typing import Any

import numpy as np

AT_MOST = 200
"""Clients that are listed; of a large federation the first."""


def describe_partition(
    targets: np.ndarray, parts: Sequence[np.ndarray]
) -> dict[str, Any]:
    """How many examples of each class the clients hold, as JSON values.

    Args:
      targets: ``[n]`` integer classes, or numbers, of which only the count is said.
      parts: one index array a client.

    Returns:
      ``clients``, how many there are; ``sizes``, their examples; ``counts``, a row of
      classes a client, None where there are no classes. The lists end at `AT_MOST`.

    Example:
      >>> describe_partition(np.array([0, 1, 1]), [np.array([0, 1]), np.array([2])])
      {'clients': 2, 'sizes': [2, 1], 'counts': [[1, 1], [0, 1]]}
    """
    listed = list(parts[:AT_MOST])
    counts = None
    if np.issubdtype(targets.dtype, np.integer) and targets.ndim == 1:
        classes = int(targets.max()) + 1
        counts = [
            np.bincount(targets[part], minlength=classes).tolist() for part in listed
        ]
    sizes = [len(part) for part in listed]
    return {"clients": len(parts), "sizes": sizes, "counts": counts}
