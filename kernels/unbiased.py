"""Scales that keep the length of a row along itself.

A least-squares code is a conditional mean: <w, v> = <v, v> < <w, w>, so a layer answers in the
direction of its own weights with the gain <w, v> / <w, w> = 1 - relative squared error. In a model
that is applied to its own output, as in diffusion, these losses add up while errors in other
directions do not. Multiplying scales and minima of a row by

    f = 1 + strength (<w, w> / <w, v> - 1)

takes back the share strength of the loss, for a slightly larger squared error. Codes stay: they
are those of f w on the stretched scales, the best for this gain. Rounding w to the stretched scales
would undo half of it (2 bits, groups of 64: gain 0.88 before, 0.94 so, 1.00 with codes kept). With importances of
columns (see importance) both products are weighted by them: it is the gain of the layer's output.
A row keeps its scales when <w, v> <= 0, and when f is not within 1 .. 2, because then the code is
not one that least squares would give.

Source: the unbiased rescaling of quantized vectors in DRIVE (Vargaftik et al., 2021), EDEN
(Vargaftik et al., 2022) and RaBitQ (Gao & Long, 2024), here per row of a weight matrix.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import uncounted
from kernels.half import half_nearest1, single1

LARGEST = 2.0


@uncounted
def factor1(ww: np.float64, wv: np.float64, strength: np.float64) -> np.float64:
    """The factor f of a row with <w, w> and <w, v>; 1 where the row keeps its scales."""
    if not wv > 0.0:
        return np.float64(1.0)
    factor = 1.0 + strength * (ww / wv - 1.0)
    return np.float64(factor if 1.0 <= factor <= LARGEST else 1.0)


@uncounted
def stretch_row(halves: NDArray[np.uint16], factor: np.float64, before: NDArray[np.uint16]) -> None:
    """Multiply halves (n,) by factor, each rounded to float32 and then to the nearest half.

    before  (n,), what halves was, written
    """
    for i in range(halves.size):
        before[i] = halves[i]
        halves[i] = half_nearest1(np.float32(np.float64(single1(halves[i])) * factor))
