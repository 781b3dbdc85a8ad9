"""The parameters of the encryption, all of them constants, and why these.

A ciphertext is two polynomials of `DEGREE` coefficients below `PRIME`. Nothing but
additions is ever done to one: clients scale their numbers before they encrypt them. So
there is one prime, and no keys but the public one.

* `DEGREE` and `PRIME`: at degree 2,048 the table of homomorphicencryption.org allows 54
  bits of modulus for 128 bits of security (ternary secret, classical attacks), and SEAL
  refuses more. 48 of them are used, which are six whole bytes.
* A polynomial carries a number in every coefficient, not in every slot: 12 bytes a
  number. Slots would hold half as many real numbers, under 32 times the noise.
* `STEP`: numbers are whole multiples of it, and decryption rounds to the nearest one. A
  fresh ciphertext has noise of standard deviation 170, and the sum of `MOST_CLIENTS`
  one of 5,400: half a step is 12 times that. Rounding therefore takes all noise away.
* `LEVELS`: the largest number is so many steps; SEAL encodes below 2^46.

Were the server to multiply by n_k, a factor of 20 bits would need a modulus of 68, and
that the degree 4,096: 17 bytes a number or more, in chunks that are twice as long.
"""

import math

DEGREE = 2048
"""Coefficients of a polynomial: numbers in one ciphertext."""
PRIME = 281_474_976_694_273
"""Modulus: the largest prime below 2^48 that is one more than a multiple of 4,096."""
RESIDUE_BYTES = 6
"""Bytes of one coefficient in messages."""
STEP = 2**17
"""Distance of two neighbouring numbers in a polynomial's coefficients."""
LEVELS = 2**29 - 1
"""Steps that stand for the bound of numbers."""
MOST_CLIENTS = 1000
"""Messages in one sum, that its noise is far from half a step."""
ERROR = 1e-6
"""Error of a mean over the largest weight, that the bound is chosen for."""
_DEVIATIONS = 5.5  # rounding errors beyond these are for 10^7 numbers and more
_ENOUGH = 32.0  # times the largest weight, for a round of training
PARAMETERS = 1
"""Number of this set of parameters, in keys and messages."""


def margin(clients: int) -> float:
    """Returns how far above the largest weight the bound may be, for an error <= 1e-6.

    Every client's rounding to whole steps is an error of at most half a one, of
    deviation 1 / sqrt(12). Half of the error is left for a largest weight that shrinks.

    >>> [round(margin(clients)) for clients in (1, 10, 100, 1000)]
    [32, 32, 17, 5]
    """
    deviation = math.sqrt(clients / 12) / LEVELS
    return min(_ENOUGH, ERROR / 2 / (_DEVIATIONS * deviation))
