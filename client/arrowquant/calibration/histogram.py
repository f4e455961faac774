"""Histograms whose edges are the same for every file, so that any two can be added.

Magnitudes are counted in sixteenths of an octave from 2^-16 to 2^16, apart for each sign, with one
bin for what is smaller. What is larger counts in the outermost bin; minimum and maximum tell it.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

PER_OCTAVE: Final = 16
LOWEST, HIGHEST = -16, 16
HALF: Final = (HIGHEST - LOWEST) * PER_OCTAVE
BINS: Final = 2 * HALF + 1


def edges() -> NDArray[np.float64]:
    """The BINS + 1 edges, ascending; bin HALF is around zero."""
    up = 2.0 ** (LOWEST + np.arange(HALF + 1) / PER_OCTAVE)
    return np.concatenate([-up[::-1], up])


def count(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """How many finite values fall into every bin, int64 (BINS,)."""
    with np.errstate(divide="ignore"):
        steps = (np.log2(np.abs(values.astype(np.float64, copy=False))) - LOWEST) * PER_OCTAVE
    found = np.floor(np.clip(steps, -1, HALF - 1)).astype(np.int64)
    place = np.where(values < 0, HALF - 1 - found, HALF + 1 + found)
    place[found < 0] = HALF
    return np.bincount(place.reshape(-1), minlength=BINS)
