"""ggml's quantizer in C, from the library that llama-cpp-python builds.

Rows are dealt to threads in blocks of 32, as llama-quantize does; it starts from float32.
"""

from __future__ import annotations

import ctypes
import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

PACKAGES = ("llama-cpp-python",)
BLOCK_ROWS = 32
# Numbers of ggml_type, as in ggml.h.
TYPES = {"Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q2_K": 10, "Q4_K": 12, "IQ2_XS": 17}


def _library() -> Any:
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    library = ctypes.CDLL(str(Path(spec.origin).parent / "lib" / "libggml-base.so"))
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [
        *(ctypes.c_int, pointer, pointer, count, count, count, pointer)
    ]
    library.ggml_row_size.restype = ctypes.c_size_t
    library.ggml_row_size.argtypes = [ctypes.c_int, count]
    library.ggml_quantize_init.argtypes = [ctypes.c_int]
    return library


class Job:
    """One format."""

    input = "f32"

    def __init__(self, w: npt.NDArray[np.float32], threads: int, name: str) -> None:
        self._w, self._name, self._threads = w, name, threads
        self._library = _library()
        self._library.ggml_quantize_init(TYPES[name])
        row_size = self._library.ggml_row_size(TYPES[name], w.shape[1])
        self._out = np.zeros((len(w), row_size), np.uint8)
        # IQ formats ask for the importance of each column: all alike.
        self._importance = np.ones(w.shape[1], np.float32) if name.startswith("IQ") else None

    def _block(self, first: int) -> None:
        rows = self._w[first : first + BLOCK_ROWS]
        importance = None if self._importance is None else self._importance.ctypes.data
        self._library.ggml_quantize_chunk(
            *(TYPES[self._name], rows.ctypes.data, self._out[first:].ctypes.data),
            *(0, len(rows), rows.shape[1], importance),
        )

    def run(self) -> None:
        with ThreadPoolExecutor(self._threads) as pool:
            list(pool.map(self._block, range(0, len(self._w), BLOCK_ROWS)))

    def nbytes(self) -> int:
        return self._out.nbytes

    def decode(self) -> npt.NDArray[np.float32]:
        name = self._name.lower().replace("_k", "_K")
        decoder = getattr(self._library, f"dequantize_row_{name}")
        decoder.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
        decoder.restype = None
        values = np.empty(self._w.shape, np.float32)
        for row, out in zip(self._out, values, strict=True):
            decoder(row.ctypes.data, out.ctypes.data, out.size)
        return values


def prepare(weights: Any, threads: int, *, name: str) -> Job:
    return Job(weights.f32, threads, name)
