"""From one training set and a partition to client-stacked data."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from fedsparsify_jax import text_table
from fedsparsify_jax.errors import InputError
from fedsparsify_jax.types import ClientData, Examples


def stack(
    examples: Examples,
    parts: Sequence[np.ndarray],
    *,
    num_classes: int | None = None,
    length: int | None = None,
) -> ClientData:
    """Gathers every client's examples, padded with zeros to the largest client.

    Args:
      examples: x ``[n, ...]`` and y ``[n]``.
      parts: one index array a client, of any sizes above zero.
      num_classes: C, to refuse labels that are not in ``0 .. C - 1``.
      length: M, of the largest client where it is not among these.

    Returns:
      x ``[N, M, ...]`` in the dtype of ``examples``, y ``[N, M]`` and sizes ``[N]``.

    Raises:
      InputError: if there is no client, one without examples, or a label outside the
        classes.

    Example:
      >>> examples = Examples(np.arange(6).reshape(3, 2), np.array([0, 1, 2]))
      >>> clients = stack(examples, [np.array([2]), np.array([0, 1])])
      >>> clients.sizes.tolist(), clients.y.tolist()
      ([1, 2], [[2, 0], [0, 1]])
    """
    if not len(parts):
        raise InputError("a federation needs at least one client")
    counts = np.array([len(part) for part in parts], np.int32)
    if counts.min() == 0:
        raise InputError(f"client {int(counts.argmin())} has no examples")
    length = int(counts.max()) if length is None else length
    if num_classes is not None:
        check_classes(np.asarray(examples.y), num_classes)
    source_x, source_y = np.asarray(examples.x), np.asarray(examples.y)
    x = np.zeros((len(parts), length, *source_x.shape[1:]), source_x.dtype)
    y = np.zeros((len(parts), length, *source_y.shape[1:]), source_y.dtype)
    for client, part in enumerate(parts):
        x[client, : len(part)] = source_x[part]
        y[client, : len(part)] = source_y[part]
    return ClientData(x=jnp.asarray(x), y=jnp.asarray(y), sizes=jnp.asarray(counts))


def check_classes(labels: np.ndarray, num_classes: int) -> None:
    """Refuses labels outside the classes.

    Raises:
      InputError: naming the first of them.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if wrong.size:
        raise InputError(
            f"label {labels[wrong[0]]} of example {wrong[0]}: with {num_classes} "
            f"classes labels are 0 to {num_classes - 1}"
        )


def class_table(
    labels: np.ndarray, parts: Sequence[np.ndarray], *, max_rows: int = 20
) -> str:
    """Returns a small text table: a client's examples of each class.

    Args:
      labels: ``[n]`` integer classes; for numbers their range is shown instead.
      parts: one index array a client.
      max_rows: clients shown; the rest is counted in a last line.

    Example:
      >>> print(class_table(np.array([0, 1, 1]), [np.array([0, 1]), np.array([2])]))
      client  0  1  total
           0  1  1      2
           1  0  1      1
    """
    labels = np.asarray(labels)
    is_class = np.issubdtype(labels.dtype, np.integer)
    classes = int(labels.max()) + 1 if is_class else 0
    columns = [*map(str, range(classes))] if is_class else ["lowest", "mean", "highest"]
    rows = []
    for client, part in enumerate(parts[:max_rows]):
        held = labels[part]
        if is_class:
            cells = [str(n) for n in np.bincount(held, minlength=classes)]
        else:
            cells = [f"{v:.1f}" for v in (held.min(), held.mean(), held.max())]
        rows.append([str(client), *cells, str(len(part))])
    table = text_table.aligned(["client", *columns, "total"], rows, ">")
    if len(parts) > max_rows:
        table += f"\n... and {len(parts) - max_rows} more clients"
    return table
