"""What scaling costs or saves, estimated on some rows of a weight.

Of the output's error both parts are estimated as for inputs without correlation: that of the rounded weights
sum_j h_j |dW_:j|^2, h = E[x^2], with d^2 / 12 for the square of every weight in a group whose min-max codes have the
step d; and that of the rounded inputs D^2 / 12 sum_j s_j^2 |W_:j|^2, D the step of one quantizer for all channels
of x / s. Nothing is rounded for it: strengths are compared, and with all of them the ranges of groups are what counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import kernels

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Target:
    """How the result will be quantized: to 2, 3, 4 or 8 bits, inputs to up to 16; 0: not at all.

    group_size  weights of a row that share a scale; 0: all
    """

    bits: int = 4
    group_size: int = 64
    activation_bits: int = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of one weight and what is known of its input.

    w        float32 (rows, cols)
    square   float64 (cols,), E[x^2]
    most     float64 (cols,), largest |x|
    """

    w: NDArray[np.float32]
    square: Vector
    most: Vector

    def error(self, s: Vector, target: Target) -> float:
        """Squared error of the output over the output's square, with columns scaled by s (cols,)."""
        energy = np.einsum("ij,ij->j", self.w, self.w, dtype=np.float64)
        signal = float(energy @ self.square)
        if not signal > 0:
            return 0.0
        lost = 0.0
        if target.bits:
            lost += self._weights(s, target)
        if target.activation_bits:
            step = 2 * float((self.most / s).max()) / ((1 << target.activation_bits) - 1)
            lost += step**2 / 12 * float(energy @ s**2)
        return lost / signal

    def _weights(self, s: Vector, target: Target) -> float:
        ranges = kernels.squared_ranges(self.w, s.astype(np.float32), target.group_size)
        starts = np.arange(ranges.size) * (target.group_size or s.size)
        importance = np.add.reduceat(self.square / s**2, starts)
        return float(ranges @ importance) / 12 / ((1 << target.bits) - 1) ** 2
