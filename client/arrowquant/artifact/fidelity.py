"""How far decoded weights are from the originals.

With w the original and v the decoded weight, e = w - v:

    relative squared error   sum e^2 / sum w^2
    SQNR in dB               -10 log10(relative squared error)
    cosine                   sum w v / sqrt(sum w^2 sum v^2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class ErrorSums:
    """Float64 sums; add two to merge disjoint parts of a tensor."""

    w2: float = 0.0
    e2: float = 0.0
    wv: float = 0.0
    v2: float = 0.0
    largest: float = 0.0

    @classmethod
    def of(cls, original: NDArray[np.float32], decoded: NDArray[np.float32]) -> ErrorSums:
        """The sums of one block."""
        w, v = original.astype(np.float64), decoded.astype(np.float64)
        e = w - v
        largest = float(np.abs(e).max(initial=0.0))
        return cls(float(w @ w), float(e @ e), float(w @ v), float(v @ v), largest)

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.w2 + other.w2,
            self.e2 + other.e2,
            self.wv + other.wv,
            self.v2 + other.v2,
            max(self.largest, other.largest),
        )

    @property
    def relmse(self) -> float:
        """0 when exact."""
        if self.e2 == 0.0:
            return 0.0
        return self.e2 / self.w2 if self.w2 > 0.0 else math.inf

    @property
    def sqnr_db(self) -> float | None:
        """None when exact, or when there is no signal."""
        relmse = self.relmse
        return -10.0 * math.log10(relmse) if 0.0 < relmse < math.inf else None

    @property
    def cosine(self) -> float:
        """1 when exact, even if zero."""
        if self.e2 == 0.0:
            return 1.0
        norm = math.sqrt(self.w2) * math.sqrt(self.v2)
        return max(-1.0, min(1.0, self.wv / norm)) if norm > 0.0 else 0.0

    def metrics(self) -> dict[str, Any]:
        """The four figures under their names in the report."""
        return {
            "relmse": self.relmse,
            "sqnr_db": self.sqnr_db,
            "cosine": self.cosine,
            "max_abs_error": self.largest,
        }
