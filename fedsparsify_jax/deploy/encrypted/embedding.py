"""From coefficients of a real polynomial to the slots that encode it, and back.

SEAL encodes values at half of the roots of x^N + 1, the other half being their complex
conjugates. N/2 complex values have room for N real coefficients, so evaluating a
polynomial there and encoding that puts chosen numbers into the coefficients.
"""

import functools
from typing import NamedTuple

import numpy as np


class _Roots(NamedTuple):
    """The roots of x^N + 1 in the order of a Fourier transform, and of slots."""

    twist: np.ndarray  # [N] powers of the first root
    order: np.ndarray  # [N/2]: the root of each slot, in the transform's order


@functools.cache
def _roots(degree: int) -> _Roots:
    powers = [1]
    while len(powers) < degree // 2:
        powers.append(powers[-1] * 3 % (2 * degree))  # SEAL's order: 1, 3, 9, ...
    return _Roots(
        twist=np.exp(1j * np.pi * np.arange(degree) / degree),
        order=(np.array(powers) - 1) // 2,
    )


def slots(coefficients: np.ndarray) -> np.ndarray:
    """Returns the values ``[..., N/2]`` of polynomials with coefficients ``[..., N]``.

    >>> slots(np.array([5.0, 0, 0, 0])).tolist()
    [(5+0j), (5+0j)]
    """
    degree = coefficients.shape[-1]
    twist, order = _roots(degree)
    return np.fft.ifft(coefficients * twist, norm="forward")[..., order]


def coefficients(values: np.ndarray) -> np.ndarray:
    """Returns the coefficients ``[..., N]`` of polynomials with such `slots`.

    >>> coefficients(slots(np.array([1.0, -2, 3, 0]))).round(9).tolist()
    [1.0, -2.0, 3.0, 0.0]
    """
    degree = 2 * values.shape[-1]
    twist, order = _roots(degree)
    both = np.empty((*values.shape[:-1], degree), complex)
    both[..., order] = values
    both[..., degree - 1 - order] = values.conj()
    return (np.fft.fft(both, norm="forward") * twist.conj()).real
