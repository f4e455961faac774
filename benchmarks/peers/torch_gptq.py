"""GPTQ as a loop over columns in torch on the CPU, as it is commonly written: blocks of 128 columns,
scales of the range of each group when its first column comes up, all in float32."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("torch",)
BLOCK = 128


class Job:
    """Factor the moments and round the matrix, each time anew."""

    input = "f32"

    def __init__(
        self, weights: Any, threads: int, *, bits: int, group: int, damp: float, moments: str,
        decoded: str,
    ) -> None:  # fmt: skip
        self.torch = importlib.import_module("torch")
        self.torch.set_num_threads(threads)
        self.w = self.torch.from_numpy(weights.f32)
        self.h = self.torch.from_numpy(np.load(moments))
        self.top, self.group, self.damp = 2**bits - 1, group, damp
        self.path = Path(decoded)
        self.codes: Any = None
        self.scales: Any = None
        self.mins: Any = None

    def factor(self) -> Any:
        """The upper triangular factor of the damped inverse."""
        linalg = self.torch.linalg
        h = self.h.clone()
        h.diagonal().add_(self.damp * h.diagonal().mean())
        inverse = self.torch.cholesky_inverse(linalg.cholesky(h))
        return linalg.cholesky(inverse, upper=True)

    def run(self) -> None:
        with self.torch.no_grad():
            self.round(self.factor())

    def round(self, upper: Any) -> None:
        torch, w = self.torch, self.w.clone()
        rows, cols = w.shape
        codes = torch.empty((rows, cols), dtype=torch.uint8)
        scales, mins = (torch.empty((rows, cols // self.group)) for _ in range(2))
        for first in range(0, cols, BLOCK):
            last = min(first + BLOCK, cols)
            errors = torch.zeros((rows, last - first))
            for c in range(first, last):
                g = c // self.group
                if c % self.group == 0:
                    part = w[:, c : c + self.group]
                    mins[:, g] = part.amin(1)
                    scales[:, g] = ((part.amax(1) - mins[:, g]) / self.top).clamp(min=1e-12)
                x, s, m = w[:, c], scales[:, g], mins[:, g]
                q = ((x - m) / s).round().clamp(0, self.top)
                codes[:, c] = q.to(torch.uint8)
                e = (x - (q * s + m)) / upper[c, c]
                errors[:, c - first] = e
                w[:, c + 1 : last] -= e[:, None] * upper[c, c + 1 : last][None]
            w[:, last:] -= errors @ upper[first:last, last:]
        self.codes, self.scales, self.mins = codes, scales, mins

    def nbytes(self) -> int:
        # Codes of 4 bits in a byte are counted as packed, scales and minima as halves.
        return int(self.codes.numel() * self.top.bit_length() // 8 + 4 * self.scales.numel())

    def decode(self) -> npt.NDArray[np.float32]:
        spread = [
            t.half().float().repeat_interleave(self.group, 1) for t in (self.scales, self.mins)
        ]
        values: npt.NDArray[np.float32] = (self.codes * spread[0] + spread[1]).numpy()
        np.save(self.path, values)
        return values


def prepare(weights: Any, threads: int, **options: Any) -> Job:
    return Job(weights, threads, **options)
