"""Our own kernels as a peer: for runs under other settings of the compiler, in a process apart."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

sys.path.insert(0, str(Path(__file__).parents[2]))

import kernels

PACKAGES = ("numba", "llvmlite")


class Job:
    """kernels.quantize at one setting."""

    input = "bf16"

    def __init__(self, weights: Any, threads: int, options: dict[str, Any]) -> None:
        self._weights, self._threads, self._options = weights, threads, options
        self._encoded: Any = None

    def run(self) -> None:
        self._encoded = kernels.quantize(
            self._weights.bf16, dtype="BF16", threads=self._threads, **self._options
        )

    def nbytes(self) -> int:
        found = [getattr(self._encoded, f.name) for f in dataclasses.fields(self._encoded)]
        return sum(value.nbytes for value in found if isinstance(value, np.ndarray))

    def decode(self) -> npt.NDArray[np.float32]:
        done = self._encoded
        return kernels.dequantize(
            done.codes,
            done.scales,
            done.mins,
            bits=self._options["bits"],
            cols=self._weights.bf16.shape[1],
            group_size=self._options["group_size"],
        )


def prepare(weights: Any, threads: int, **options: Any) -> Job:
    return Job(weights, threads, options)
