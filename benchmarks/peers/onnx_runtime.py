"""ONNX Runtime's quantizer for MatMulNBits, in C++: round to nearest, asymmetric, blocks along K."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("onnxruntime",)


class Job:
    """One width and block size. The operator holds the weight as (inputs, outputs)."""

    input = "f32"

    def __init__(self, w: npt.NDArray[np.float32], bits: int, group: int) -> None:
        state = importlib.import_module("onnxruntime.capi._pybind_state")
        self._quantize = getattr(state, f"quantize_matmul_{bits}bits")
        self._w, self._bits, self._group = np.ascontiguousarray(w.T), bits, group
        self._cols, self._rows = self._w.shape
        blocks = -(-self._cols // group)
        self._codes = np.zeros((self._rows, blocks, group * bits // 8), np.uint8)
        self._scales = np.zeros(self._rows * blocks, np.float32)
        self._zeros = np.zeros(self._rows * -(-blocks * bits // 8), np.uint8)

    def run(self) -> None:
        self._quantize(
            self._codes,
            self._w,
            self._scales,
            self._zeros,
            self._group,
            self._rows,
            self._cols,
            False,
        )

    def nbytes(self) -> int:
        return self._codes.nbytes + self._scales.nbytes + self._zeros.nbytes

    def _unpacked(self, packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        shifts = np.arange(8 // self._bits, dtype=np.uint8) * np.uint8(self._bits)
        codes = (packed[..., None] >> shifts) & np.uint8((1 << self._bits) - 1)
        return codes.reshape(self._rows, -1).astype(np.float32)

    def decode(self) -> npt.NDArray[np.float32]:
        blocks = self._codes.shape[1]
        codes = self._unpacked(self._codes).reshape(self._rows, blocks, -1)
        zeros = self._unpacked(self._zeros.reshape(self._rows, -1))[:, :blocks, None]
        values = (codes - zeros) * self._scales.reshape(self._rows, blocks, 1)
        return values.reshape(self._rows, -1)[:, : self._cols]


def prepare(weights: Any, threads: int, *, bits: int, group: int) -> Job:
    return Job(weights.f32, bits, group)
