"""What the machine itself gives: loops that only move bytes, or only multiply and add.

The traffic loop reads as many bytes as a kernel reads and writes as many as it writes, in the same
blocks on the same threads, and does nothing else: no kernel that reads its input once can be
faster. Its output buffer is there beforehand, as is that of the methods which can write over an
earlier result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.blocks import over_rows

Words = npt.NDArray[np.uint64]
STRIPE = 512  # words read between two bursts of writes: a page


@njit(nogil=True, cache=True, error_model="numpy")
def _move(source: Words, target: Words) -> None:
    stripes = (source.size + STRIPE - 1) // STRIPE
    for stripe in range(stripes):
        part = source[stripe * STRIPE : (stripe + 1) * STRIPE]
        out = target[target.size * stripe // stripes : target.size * (stripe + 1) // stripes]
        folded = np.uint64(0)
        for i in range(part.size):
            folded ^= part[i]
        for i in range(out.size):
            out[i] = folded


@njit(nogil=True, cache=True, error_model="numpy", fastmath=True)
def _multiply_add(turns: int, x: np.float32) -> np.float32:
    lanes = np.ones(64, np.float32)
    for _ in range(turns):
        for i in range(64):
            lanes[i] = lanes[i] * x + np.float32(0.5)
    return np.float32(lanes.sum())


class Traffic:
    """Reads all of `source` and writes `written` bytes, in blocks of rows."""

    def __init__(self, source: npt.NDArray[np.generic], written: int) -> None:
        rows = source.shape[0]
        self.rows, self.cols = source.shape
        self.source = source.reshape(rows, -1).view(np.uint64)
        self.target = np.zeros((rows, max(1, written // rows // 8)), np.uint64)

    @property
    def nbytes(self) -> int:
        return self.source.nbytes + self.target.nbytes

    def numba(self, threads: int) -> None:
        """With the compiled loop."""

        def work(part: slice) -> int:
            _move(self.source[part].reshape(-1), self.target[part].reshape(-1))
            return -1

        over_rows(work, self.rows, self.cols, threads)

    def numpy(self, threads: int) -> None:
        """With NumPy's own loops."""

        def work(part: slice) -> int:
            self.target[part] = np.bitwise_xor.reduce(self.source[part], axis=None)
            return -1

        over_rows(work, self.rows, self.cols, threads)


def multiply_add(threads: int, turns: int) -> int:
    """FMA in registers or L1 on each thread; the number of operations done."""

    def work(_: slice) -> int:
        _multiply_add(turns, np.float32(0.999))
        return -1

    over_rows(work, threads, 1 << 17, threads)
    return threads * turns * 64 * 2


def copy(source: npt.NDArray[Any], target: npt.NDArray[Any], threads: int) -> None:
    """memcpy, block by block on each thread."""

    def work(part: slice) -> int:
        target[part] = source[part]
        return -1

    over_rows(work, source.shape[0], source.shape[1], threads)
