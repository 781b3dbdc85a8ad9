"""Partitioners: labels to one index array a client.

Every partitioner uses each example exactly once, gives every client at least one, and
returns the same partition for the same seed. The last four are those of the paper's
neuroimaging experiments: client sizes, age ranges and sites as they are.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from fedsparsify_jax.errors import InputError, counted

Parts = list[np.ndarray]

_TRIES = 1000
BRAIN_AGE_SIZES = {
    "uniform": (1037,) * 7 + (1097,),
    "uniform-non-iid": (1045,) * 4 + (1044,) * 4,
    "skewed": (2401, 1765, 1303, 964, 714, 528, 391, 290),
}
"""Scans of the 8 clients in the authors' three settings; each sums to 8,356."""


def _labels(labels: ArrayLike, num_clients: int) -> np.ndarray:
    checked = np.asarray(labels)
    if checked.ndim != 1:
        raise InputError(f"labels have shape {checked.shape}: expected [examples]")
    if num_clients < 1:
        raise InputError(f"num_clients is {num_clients}: it must be at least 1")
    if num_clients > len(checked):
        raise InputError(
            f"{num_clients} clients for {len(checked)} examples: every client needs at "
            f"least one, so use at most {len(checked)} clients"
        )
    return checked


def _check_alpha(alpha: float) -> None:
    if not (alpha > 0 and math.isfinite(alpha)):
        raise InputError(f"alpha is {alpha}: it must be above 0 and finite")


def iid(labels: ArrayLike, num_clients: int, seed: int = 0) -> Parts:
    """Shuffles the examples and deals them out in equal contiguous chunks.

    >>> [len(part) for part in iid(np.zeros(7), 3)]
    [3, 2, 2]
    """
    checked = _labels(labels, num_clients)
    order = np.random.default_rng(seed).permutation(len(checked))
    return np.array_split(order, num_clients)


def label_shards(
    labels: ArrayLike, num_clients: int, classes_per_client: int, seed: int = 0
) -> Parts:
    """Deals k classes to every client, in blocks: the authors' non-IID partition.

    The examples are sorted by label and cut into ``N k`` chunks; each client in turn
    takes the first k chunks whose labels it does not hold yet. On balanced data this
    gives disjoint groups of clients: with 10 classes and k = 2 the pairs {0, 1},
    {2, 3}, and so on. If ``N k`` is a multiple of the number of classes, chunks never
    straddle two classes, whatever the class sizes; otherwise they are equally long.

    Args:
      labels: ``[n]`` integer classes.
      num_clients: N.
      classes_per_client: k.
      seed: which examples of a class go to which of its chunks. Who gets which
        classes does not depend on it.

    Raises:
      InputError: if chunks are left over, or k is out of range. There is always a
        way if k divides the number of classes, and that number ``N k``.

    References:
      The code of Stripelis et al., FedSparsify (``utils/data_distribution.py``).

    Example:
      >>> labels = np.repeat(np.arange(4), 10)
      >>> [sorted(set(labels[part].tolist())) for part in label_shards(labels, 4, 2)]
      [[0, 1], [0, 1], [2, 3], [2, 3]]
    """
    checked = _labels(labels, num_clients)
    classes = np.unique(checked)
    shards = num_clients * classes_per_client
    if not 1 <= classes_per_client <= len(classes):
        raise InputError(
            f"classes_per_client is {classes_per_client}: the labels have "
            f"{len(classes)} classes, so it must be between 1 and {len(classes)}"
        )
    order = np.random.default_rng(seed).permutation(len(checked))
    by_label = order[np.argsort(checked[order], kind="stable")]
    if shards % len(classes) == 0:
        counts = [int(np.sum(checked == label)) for label in classes]
        groups = np.split(by_label, np.cumsum(counts)[:-1])
        chunks = [
            chunk
            for group in groups
            for chunk in np.array_split(group, shards // len(classes))
        ]
    else:
        chunks = np.array_split(by_label, shards)
    return _deal(checked, chunks, num_clients, classes_per_client)


def _deal(
    labels: np.ndarray, chunks: Parts, num_clients: int, classes_per_client: int
) -> Parts:
    """Deals every client in turn the first chunks with labels new to it."""
    if min(map(len, chunks)) == 0:
        raise InputError(
            f"{len(chunks)} chunks of {counted(len(labels), 'example')} leave some "
            "empty: use fewer clients or fewer classes per client"
        )
    # Chunks that are dealt become empty, and go when the client has all of its own.
    remaining, parts = list(chunks), []
    for client in range(num_clients):
        held: set[int] = set()
        taken: Parts = []
        for position, chunk in enumerate(remaining):
            new = set(labels[chunk].tolist())
            if len(taken) < classes_per_client and not new & held:
                taken.append(chunk)
                held |= new
                remaining[position] = chunk[:0]
        remaining = [chunk for chunk in remaining if len(chunk)]
        if len(taken) < classes_per_client:
            raise InputError(
                f"no {classes_per_client} chunks of different classes are left for "
                f"client {client}: make classes_per_client a divisor of the "
                f"{len(np.unique(labels))} classes, and num_clients x "
                "classes_per_client a multiple of them"
            )
        parts.append(np.concatenate(taken))
    return parts


def dirichlet(
    labels: ArrayLike,
    num_clients: int,
    alpha: float,
    seed: int = 0,
    *,
    min_examples: int = 1,
) -> Parts:
    """Divides every class among the clients by a draw from Dirichlet(alpha).

    Small ``alpha`` gives clients few classes and unequal sizes. Draws that leave a
    client with fewer than ``min_examples`` are repeated.

    Raises:
      InputError: if no draw gives every client enough.

    References:
      Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution
      (arXiv 1909.06335), in the form with one draw a class (Li et al., arXiv
      2102.02079).

    Example:
      >>> parts = dirichlet(np.repeat(np.arange(4), 25), 5, alpha=0.5, seed=1)
      >>> len(parts), sum(map(len, parts))
      (5, 100)
    """
    checked = _labels(labels, num_clients)
    _check_alpha(alpha)
    rng = np.random.default_rng(seed)
    for _ in range(_TRIES):
        # Every class on its own: a draw of shares, and cuts at their sums.
        pieces: list[Parts] = [[] for _ in range(num_clients)]
        for label in np.unique(checked):
            members = rng.permutation(np.flatnonzero(checked == label))
            shares = rng.dirichlet(np.full(num_clients, alpha))
            cuts = np.floor(np.cumsum(shares)[:-1] * len(members)).astype(int)
            for piece, chunk in zip(pieces, np.split(members, cuts), strict=True):
                piece.append(chunk)
        parts = [np.concatenate(piece) for piece in pieces]
        if min(map(len, parts)) >= min_examples:
            return parts
    raise InputError(
        f"alpha {alpha} leaves some of {counted(num_clients, 'client')} with fewer "
        f"than {counted(min_examples, 'example')} in {_TRIES} draws: use a "
        "larger alpha or fewer clients"
    )


def quantity_skew(
    labels: ArrayLike,
    num_clients: int,
    alpha: float,
    seed: int = 0,
    *,
    min_examples: int = 1,
) -> Parts:
    """Gives clients very unequal sizes, but each the class mix of the whole.

    Every client first gets ``min_examples``; what remains is divided by a draw from
    Dirichlet(alpha), so small ``alpha`` means stronger skew.

    References:
      Li, Diao, Chen and He, Federated Learning on Non-IID Data Silos (arXiv
      2102.02079), "quantity skew".

    Example:
      >>> parts = quantity_skew(np.zeros(100), 4, alpha=0.5, seed=0)
      >>> sum(map(len, parts)), min(map(len, parts)) >= 1
      (100, True)
    """
    checked = _labels(labels, num_clients)
    _check_alpha(alpha)
    surplus = len(checked) - num_clients * min_examples
    if surplus < 0:
        raise InputError(
            f"{counted(num_clients, 'client')} of at least "
            f"{counted(min_examples, 'example')} need "
            f"{num_clients * min_examples}, the data has {len(checked)}"
        )
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(checked))
    shares = rng.dirichlet(np.full(num_clients, alpha))
    ends = np.floor(np.cumsum(shares)[:-1] * surplus).astype(int)
    ends += min_examples * np.arange(1, num_clients)
    return np.split(order, ends)


def _sizes(sizes: Sequence[int]) -> np.ndarray:
    checked = np.asarray(sizes)
    if checked.ndim != 1 or checked.size == 0:
        raise InputError(f"client sizes are {sizes}: expected one number a client")
    if not np.issubdtype(checked.dtype, np.integer) or checked.min() < 1:
        raise InputError(
            f"client sizes are {list(sizes)}: expected whole numbers of at least 1"
        )
    return checked.astype(np.int64)


def _cuts(n: int, sizes: Sequence[int]) -> np.ndarray:
    """Returns the rows at which n examples are cut; the sizes must sum to n."""
    checked = _sizes(sizes)
    if checked.sum() != n:
        raise InputError(
            f"client sizes sum to {checked.sum()}, the data has {n} examples: rescale "
            "them with proportional_sizes"
        )
    return np.cumsum(checked)[:-1]


def proportional_sizes(n: int, sizes: Sequence[int]) -> list[int]:
    """Scales client sizes, in (nearly) the same proportions, to sum to exactly n.

    Every client first gets the whole part of its share; what is left goes to the
    largest fractions, the first client first among equals. Clients whose share comes
    to nothing get one example, taken from the largest.

    Args:
      n: examples to divide.
      sizes: the proportions, whole numbers of at least 1.

    Raises:
      InputError: if there are more clients than examples.

    Example:
      >>> proportional_sizes(100, BRAIN_AGE_SIZES["skewed"])
      [29, 21, 16, 11, 9, 6, 5, 3]
    """
    checked = _sizes(sizes)
    if n < len(checked):
        raise InputError(
            f"{len(checked)} clients for {n} examples: every client needs at least one"
        )
    # Whole-number arithmetic: the remainders are exact, so ties are true ties.
    scaled, remainders = np.divmod(checked * n, checked.sum())
    first = np.argsort(-remainders, kind="stable")[: n - int(scaled.sum())]
    scaled[first] += 1
    for client in np.flatnonzero(scaled == 0):
        scaled[client] = 1
        scaled[scaled.argmax()] -= 1
    return scaled.tolist()


def by_sizes(labels: ArrayLike, sizes: Sequence[int], seed: int = 0) -> Parts:
    """Shuffles the examples and gives every client the number it is to have.

    Args:
      labels: ``[n]`` labels or targets; only their number matters.
      sizes: examples of each client, summing to n.
      seed: who gets which.

    Raises:
      InputError: if the sizes do not sum to n.

    Example:
      >>> [len(part) for part in by_sizes(np.zeros(6), [3, 2, 1])]
      [3, 2, 1]
    """
    n = len(np.asarray(labels))
    return np.split(np.random.default_rng(seed).permutation(n), _cuts(n, sizes))


def value_skew(targets: ArrayLike, sizes: Sequence[int], seed: int = 0) -> Parts:
    """Gives every client one range of the target, the first one the smallest values.

    The examples are sorted by target and cut into blocks of the given sizes. In the
    brain age experiments this gives each client an age range.

    Args:
      targets: ``[n]`` numbers.
      sizes: examples of each client, summing to n.
      seed: in which order equal targets come, hence who gets them where a cut falls
        among them; and the order inside a client.

    Raises:
      InputError: if the sizes do not sum to n, or a target is NaN.

    Example:
      >>> [part.tolist() for part in value_skew([70.0, 50.0, 60.0], [1, 2], seed=1)]
      [[1], [2, 0]]
    """
    checked = np.asarray(targets)
    if checked.ndim != 1:
        raise InputError(f"targets have shape {checked.shape}: expected [examples]")
    if np.isnan(checked).any():
        raise InputError("targets hold NaN: clean them first")
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(checked))
    by_value = order[np.argsort(checked[order], kind="stable")]
    blocks = np.split(by_value, _cuts(len(checked), sizes))
    return [rng.permutation(block) for block in blocks]


def by_group(groups: ArrayLike) -> Parts:
    """Makes each group a client, such as the site of a scan; by sorted name.

    >>> [part.tolist() for part in by_group(["leeds", "bath", "leeds"])]
    [[1], [0, 2]]
    """
    checked = np.asarray(groups)
    if checked.ndim != 1 or checked.size == 0:
        raise InputError(f"groups have shape {checked.shape}: expected [examples]")
    return [np.flatnonzero(checked == group) for group in np.unique(checked)]
