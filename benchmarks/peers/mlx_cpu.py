"""MLX on the CPU: affine groups from BF16, scales and biases in BF16."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("mlx",)


class Job:
    """One width and group size."""

    input = "bf16"

    def __init__(self, patterns: npt.NDArray[np.uint16], bits: int, group: int) -> None:
        self._mx = importlib.import_module("mlx.core")
        self._w = self._mx.array(patterns).view(self._mx.bfloat16)
        self._mx.eval(self._w)
        self._shape = {"group_size": group, "bits": bits}
        self._out: Any = None

    def run(self) -> None:
        self._out = self._mx.quantize(self._w, **self._shape)
        self._mx.eval(*self._out)

    def nbytes(self) -> int:
        return sum(int(array.nbytes) for array in self._out)

    def decode(self) -> npt.NDArray[np.float32]:
        values = self._mx.dequantize(*self._out, **self._shape).astype(self._mx.float32)
        return np.array(values)


def prepare(weights: Any, threads: int, *, bits: int, group: int) -> Job:
    return Job(weights.bf16, bits, group)
