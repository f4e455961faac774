"""The levels of super-block codes: denser around zero, where weights are.

    bits 2   -7 -2 2 7
    bits 3   -45 -29 -16 -5 5 16 29 45
    bits 4   -127 -104 -84 -65 -49 -34 -20 -7 7 20 34 49 65 84 104 127

They are a t + b t^3 over the evenly spaced t = u - (2^bits - 1) / 2, rounded to integers, with b / a
chosen by measurement for groups of 16 and 32 Gaussian weights. On weights like those of language
models they are 0.1, 0.3 and 0.4 dB better than even steps at 2, 3 and 4 bits. They fit a signed
byte, and 7 bits of a product (see superblock).

Vectors cannot look up tables, so lanes know the levels as a rule of float32 polynomials:

    L(f) = round(f (a0 + a1 f^2)),  f = 2 u - Q, Q = 2^bits - 1        exact
    u(t) = floor(t (b0 + b1 t^2 + b2 t^4) + 2^(bits - 1)),  |t| <= L(Q)  within 0.01 of the nearest

Source: Max, Quantizing for minimum distortion, 1960, and Lloyd, 1982 (uneven levels); Panter & Dite,
1951 (density of levels).
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Curve: TypeAlias = tuple[
    np.float32, np.float32, np.float32, np.float32, np.float32, np.float32, np.float32, np.float32
]
Grains: TypeAlias = tuple[np.float32, np.float32]

_UPPER = {
    2: (2, 7),
    3: (5, 16, 29, 45),
    4: (7, 20, 34, 49, 65, 84, 104, 127),
}

# a0, a1, b0, b1, b2
_POLYNOMIALS = {
    2: (1.9583334, 0.041666668, 0.22222222, 0.0, 0.0),
    3: (5.0823126, 0.02779798, 0.09731542, -1.945364e-05, 5.547918e-09),
    4: (6.5903606, 0.008345157, 0.074941784, -1.6137848e-06, 4.003867e-11),
}


def levels_for(bits: int) -> NDArray[np.int32]:
    """All levels by code, int32 (2^bits,), rising."""
    upper = np.array(_UPPER[bits], np.int32)
    return np.concatenate([-upper[::-1], upper])


def largest_for(bits: int) -> int:
    """The largest level."""
    return _UPPER[bits][-1]


def grains_for(bits: int, scale_bits: int) -> Grains:
    """What d and dm count: the powers of two that bring S L and M - 2^(scale_bits - 1) below 1."""
    digits = largest_for(bits).bit_length()
    return np.float32(2.0 ** -(scale_bits + digits)), np.float32(2.0 ** -(scale_bits - 1))


def curve_for(bits: int) -> Curve:
    """The rule of lanes: a0, a1, b0, b1, b2, the largest level, 2^(bits - 1), Q."""
    a0, a1, b0, b1, b2 = (np.float32(number) for number in _POLYNOMIALS[bits])
    largest = np.float32(largest_for(bits))
    return a0, a1, b0, b1, b2, largest, np.float32(1 << (bits - 1)), np.float32((1 << bits) - 1)
