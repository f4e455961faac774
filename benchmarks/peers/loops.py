"""What one would write first: NumPy over groups, a loop in Python, the same loop through Numba.

All round to nearest over the range of each group, with a half-precision scale and minimum, and pack
4 codes of 2 bits or 2 codes of 4 bits into a byte. `kind` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK_ROWS = 32  # temporaries then stay in the caches

Floats = npt.NDArray[np.float32]
Halves = npt.NDArray[np.float16]
Bytes = npt.NDArray[np.uint8]


def _pack(codes: Bytes, bits: int) -> Bytes:
    per = 8 // bits
    parts = codes.reshape(*codes.shape[:-1], -1, per)
    packed = parts[..., 0].copy()
    for k in range(1, per):
        packed |= parts[..., k] << np.uint8(bits * k)
    return packed


def numpy_rows(w: Floats, bits: int, group: int) -> tuple[Bytes, Halves, Halves]:
    """A block of rows, vectorised."""
    parts = w.reshape(len(w), -1, group)
    lows = parts.min(-1).astype(np.float16)
    scales = ((parts.max(-1) - lows) / ((1 << bits) - 1)).astype(np.float16)
    steps = scales.astype(np.float32)
    inverse = np.divide(1.0, steps, out=np.zeros_like(steps), where=steps != 0)
    codes = (parts - lows.astype(np.float32)[..., None]) * inverse[..., None]
    codes += np.float32(0.5)
    np.clip(codes, 0, (1 << bits) - 1, out=codes)
    return _pack(codes.astype(np.uint8).reshape(w.shape), bits), scales, lows


def python_rows(w: Floats, bits: int, group: int) -> tuple[Bytes, Halves, Halves]:
    """The same with Python numbers, one at a time."""
    top, per = (1 << bits) - 1, 8 // bits
    packed, scales, lows = [], [], []
    for row in w.tolist():
        for start in range(0, len(row), group):
            part = row[start : start + group]
            low = min(part)
            scale = (max(part) - low) / top
            inverse = 1.0 / scale if scale else 0.0
            codes = [min(max(int((x - low) * inverse + 0.5), 0), top) for x in part]
            scales.append(scale)
            lows.append(low)
            for first in range(0, len(codes), per):
                byte = 0
                for k in range(per):
                    byte |= codes[first + k] << (bits * k)
                packed.append(byte)
    shape = len(w), -1
    return (
        np.array(packed, np.uint8).reshape(shape),
        np.array(scales, np.float16).reshape(shape),
        np.array(lows, np.float16).reshape(shape),
    )


def _numba_rows() -> Callable[[Floats, int, int], tuple[Bytes, Halves, Halves]]:
    from numba import njit

    @njit(nogil=True, error_model="numpy")
    def loop(w: Floats, bits: int, group: int, packed: Bytes, scales: Floats, lows: Floats) -> None:
        per, top = 8 // bits, np.float32((1 << bits) - 1)
        for r in range(w.shape[0]):
            for g in range(scales.shape[1]):
                low, high = w[r, g * group], w[r, g * group]
                for i in range(g * group, (g + 1) * group):
                    low, high = min(low, w[r, i]), max(high, w[r, i])
                scale = np.float32((high - low) / top)
                inverse = np.float32(1.0) / scale if scale != 0 else np.float32(0.0)
                scales[r, g], lows[r, g] = scale, low
                for first in range(g * group, (g + 1) * group, per):
                    byte = 0
                    for k in range(per):
                        t = np.float32((w[r, first + k] - low) * inverse + np.float32(0.5))
                        code = int(min(max(t, np.float32(0.0)), top))
                        byte |= code << (bits * k)
                    packed[r, first // per] = byte

    def rows(w: Floats, bits: int, group: int) -> tuple[Bytes, Halves, Halves]:
        packed = np.empty((len(w), w.shape[1] * bits // 8), np.uint8)
        scales = np.empty((len(w), w.shape[1] // group), np.float32)
        lows = np.empty_like(scales)
        loop(w, bits, group, packed, scales, lows)
        return packed, scales.astype(np.float16), lows.astype(np.float16)

    return rows


class Job:
    """One of the three, block by block (`rows` each, 0: all at once), on one thread."""

    input = "f32"

    def __init__(self, w: Floats, kind: str, bits: int, group: int, rows: int) -> None:
        self._w, self._bits, self._group, self._block = w, bits, group, rows or len(w)
        kinds = {"numpy": lambda: numpy_rows, "python": lambda: python_rows, "numba": _numba_rows}
        self._rows = kinds[kind]()
        self._parts: list[tuple[Bytes, Halves, Halves]] = []

    def run(self) -> None:
        self._parts = [
            self._rows(self._w[first : first + self._block], self._bits, self._group)
            for first in range(0, len(self._w), self._block)
        ]

    def nbytes(self) -> int:
        return sum(array.nbytes for part in self._parts for array in part)

    def decode(self) -> Floats:
        per = 8 // self._bits
        shifts = np.arange(per, dtype=np.uint8) * np.uint8(self._bits)
        blocks = []
        for packed, scales, lows in self._parts:
            codes = (packed[..., None] >> shifts) & np.uint8((1 << self._bits) - 1)
            groups = codes.reshape(*scales.shape, self._group).astype(np.float32)
            values = groups * scales[..., None].astype(np.float32) + lows[..., None]
            blocks.append(values.reshape(len(packed), -1).astype(np.float32))
        return np.concatenate(blocks)


def prepare(
    weights: Any, threads: int, *, kind: str, bits: int, group: int, rows: int = BLOCK_ROWS
) -> Job:
    return Job(weights.f32, kind, bits, group, rows)
