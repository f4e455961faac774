"""The levels of a trellis code: 4096 integers that a formula gives, one for each window of 12 bits.

    L(W) = round(5517 (p^(1/8) - (1 - p)^(1/8))),   p = (2 u + 1) / 8192,   u = a (x) W

p^(1/8) is three square roots in float64, and no L is near a tie. These are, within 1.5 %, the quantiles of
a normal distribution of deviation UNIT = 1024, from -3728 to 3728 (Tukey's lambda distribution); measured, codes are as good
with them as with the quantiles themselves, and no logarithm is needed, whose last bit differs between libraries.

a (x) W is a product in the field of 4096 elements, bits being coefficients of polynomials over GF(2)
modulo x^12 + x^6 + x^4 + x + 1: u is a linear function of the bits of the window, so the code is a
convolutional one with a large alphabet. For all factors a, the levels of the windows that follow one
another spread out; the factors are those with the least error on seeded Gaussian numbers, of all 4095. At 2 bits that is
worth 0.18 dB against levels drawn at random, at 3 and 4 bits more.

Source: Ungerboeck, Channel coding with multilevel/phase signals, 1982; Marcellin & Fischer, Trellis
coded quantization of memoryless and Gauss-Markov sources, 1990; Tukey, 1962.
"""

from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

WINDOW = 12  # bits of a window
COUNT = 1 << WINDOW
A = TypeVar("A", bound=np.generic)

UNIT = 1024  # levels that make one scale of a row
FINER = 8  # steps of the search in a level: its weights fill 16 bits
POLYNOMIAL = 0x1053
FACTORS = {2: 0xC52, 3: 0xE29, 4: 0xDEE}


def multiply(factor: int, windows: NDArray[np.int64]) -> NDArray[np.int64]:
    """The products factor (x) windows, int64 of the same shape."""
    product = np.zeros_like(windows)
    for bit in range(WINDOW):
        product ^= np.where(windows >> bit & 1, factor, 0)
        factor <<= 1
        factor ^= POLYNOMIAL if factor >> WINDOW else 0
    return product


@lru_cache
def levels_for(bits: int) -> NDArray[np.int16]:
    """L of every window, int16 (4096,), read-only."""
    p = (2 * multiply(FACTORS[bits], np.arange(COUNT)) + 1) / (2 * COUNT)
    upper, lower = (np.sqrt(np.sqrt(np.sqrt(part))) for part in (p, 1 - p))
    return _frozen(np.rint(5517 * (upper - lower)).astype(np.int16))


@lru_cache
def values_for(bits: int) -> NDArray[np.float32]:
    """L / UNIT of every window, float32 (4096,), exact, read-only."""
    return _frozen(levels_for(bits).astype(np.float32) / np.float32(UNIT))


@lru_cache
def table_for(bits: int) -> NDArray[np.int16]:
    """Levels for the search: FINER L(q 2^bits + k) at [k, q], int16 (2^bits, 2^(12 - bits))."""
    levels = (FINER * levels_for(bits)).reshape(-1, 1 << bits)
    return _frozen(np.ascontiguousarray(levels.T))


def _frozen(array: NDArray[A]) -> NDArray[A]:
    array.flags.writeable = False
    return array
