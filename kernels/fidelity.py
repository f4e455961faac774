"""How far stored weights are from the originals.

With w the original and v the decoded weight, e = w - v:

    relative squared error   sum e^2 / sum w^2
    SQNR in dB               -10 log10(relative squared error)
    cosine                   sum w v / sqrt(sum w^2 sum v^2)
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel

# Columns of the per-row sums written by the kernels.
W2, E2, WQ, Q2, MAX = 0, 1, 2, 3, 4
COLUMNS = 5


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Float64 sums over weights w and decoded weights v; add two to merge disjoint parts.

    sum_w2, sum_e2, sum_wq, sum_q2    sums of w^2, (w - v)^2, w v and v^2
    max_abs_error                     largest |w - v|
    count                             number of weights
    """

    sum_w2: float = 0.0
    sum_e2: float = 0.0
    sum_wq: float = 0.0
    sum_q2: float = 0.0
    max_abs_error: float = 0.0
    count: int = 0

    def __add__(self, other: "ErrorSums") -> "ErrorSums":
        return ErrorSums(
            self.sum_w2 + other.sum_w2,
            self.sum_e2 + other.sum_e2,
            self.sum_wq + other.sum_wq,
            self.sum_q2 + other.sum_q2,
            max(self.max_abs_error, other.max_abs_error),
            self.count + other.count,
        )

    @property
    def rel_mse(self) -> float:
        """Squared error relative to the energy of the weights; 0 when exact."""
        if self.sum_e2 == 0.0:
            return 0.0
        return self.sum_e2 / self.sum_w2 if self.sum_w2 > 0.0 else math.inf

    @property
    def sqnr_db(self) -> float:
        """Signal to quantization noise ratio in dB; inf when exact."""
        rel_mse = self.rel_mse
        if rel_mse == 0.0:
            return math.inf
        return -10.0 * math.log10(rel_mse) if rel_mse < math.inf else -math.inf

    @property
    def cosine(self) -> float:
        """Cosine of the angle between weights and decoded weights; 1 when exact, even if zero."""
        if self.sum_e2 == 0.0:
            return 1.0
        norm = math.sqrt(self.sum_w2) * math.sqrt(self.sum_q2)
        return max(-1.0, min(1.0, self.sum_wq / norm)) if norm > 0.0 else 0.0


@kernel
def _fold(rows: NDArray[np.float64], out: NDArray[np.float64]) -> None:
    for r in range(rows.shape[0]):
        for c in range(MAX):
            out[c] += rows[r, c]
        out[MAX] = max(out[MAX], rows[r, MAX])


def fold_rows(rows: NDArray[np.float64], cols: int) -> ErrorSums:
    """Add per-row sums (rows, COLUMNS) in row order; cols is the number of weights in each."""
    total = np.zeros(COLUMNS)
    _fold(rows, total)
    w2, e2, wq, q2, largest = (float(value) for value in total)
    return ErrorSums(w2, e2, wq, q2, largest, rows.shape[0] * cols)
