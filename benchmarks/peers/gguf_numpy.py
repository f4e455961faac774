"""The gguf package's own quantizer, in NumPy, on one thread."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("gguf",)


class Job:
    """One format."""

    input = "f32"

    def __init__(self, w: npt.NDArray[np.float32], name: str) -> None:
        gguf = importlib.import_module("gguf")
        self._quants, self._type = gguf.quants, gguf.GGMLQuantizationType[name]
        self._w, self._out = w, np.empty(0, np.uint8)

    def run(self) -> None:
        self._out = self._quants.quantize(self._w, self._type)

    def nbytes(self) -> int:
        return self._out.nbytes

    def decode(self) -> npt.NDArray[np.float32]:
        values: npt.NDArray[np.float32] = self._quants.dequantize(self._out, self._type)
        return values


def prepare(weights: Any, threads: int, *, name: str) -> Job:
    return Job(weights.f32, name)
