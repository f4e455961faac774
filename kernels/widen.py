"""Weights as stored to float32, and the finite check.

Stored weights travel as bit patterns (uint16 for BF16 and F16, uint32 for F32) with one of the
kinds below, so that read-only memory maps are read in place and once.

    BF16  s eeeeeeee fffffff                     the upper half of a float32
    F16   s eeeee ffffffffff                     see half
    F32   s eeeeeeee fffffffffffffffffffffff
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kernels._jit import inlined, kernel, uncounted
from kernels.vectors import TURN

Dtype = Literal["BF16", "F16", "F32"]

F32, BF16, F16 = 0, 1, 2
KINDS: dict[str, int] = {"F32": F32, "BF16": BF16, "F16": F16}


def patterns(x: NDArray[np.generic], dtype: Dtype) -> NDArray[np.unsignedinteger]:
    """View x as bit patterns, read-only; no copy.

    x       (rows, cols), C order: uint16 patterns for BF16 and F16 (float16 is accepted for F16),
            float32 for F32
    Errors  TypeError when the element size does not fit dtype
    """
    width: type[np.unsignedinteger] = np.uint32 if dtype == "F32" else np.uint16
    if x.dtype.itemsize != np.dtype(width).itemsize:
        raise TypeError(f"{dtype} weights cannot be read from {x.dtype} elements")
    view = x.view(width)
    view.flags.writeable = False  # one compiled variant serves writable and read-only callers
    return view


@kernel
def padded(cols: int) -> int:
    """Elements of a row array that is read and written in whole turns, from any multiple of 8 on."""
    return (cols + TURN - 1) // TURN * TURN + TURN // 2


@inlined
def _widen_bf16(x: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    for i in range(x.size):
        out[i] = np.uint32(np.uint32(x[i]) << 16).view(np.float32)


@inlined
def _widen_f16(x: NDArray[np.uint16], out: NDArray[np.float32]) -> None:
    """Branch-free; patterns of NaN and Inf keep being NaN and Inf."""
    for i in range(x.size):
        bits = np.uint32(x[i])
        size = np.uint32(bits & 0x7FFF)
        sign = np.uint32((bits & 0x8000) << 16)
        rebias = np.uint32(224 << 23) if size >= 0x7C00 else np.uint32(112 << 23)
        normal = np.uint32(np.uint32(size << 13) + rebias)
        small = np.float32(np.float32(np.int32(size)) * np.float32(2.0**-24)).view(np.uint32)
        out[i] = np.uint32(sign | (small if size < 0x400 else normal)).view(np.float32)


@inlined
def _widen_f32(x: NDArray[np.uint32], out: NDArray[np.float32]) -> None:
    for i in range(x.size):
        out[i] = np.uint32(x[i]).view(np.float32)


@inlined
def widen_row(x: NDArray[np.unsignedinteger], kind: int, out: NDArray[np.float32]) -> None:
    """Write the float32 values of the patterns x (cols,) to out[:cols]; exact."""
    if kind == BF16:
        _widen_bf16(x, out)
    elif kind == F16:
        _widen_f16(x, out)
    else:
        _widen_f32(x, out)


@uncounted
def first_nonfinite(w: NDArray[np.float32]) -> int:
    """Index of the first NaN or Inf in w (n,), or -1."""
    for i in range(w.size):
        if not np.isfinite(w[i]):
            return i
    return -1


@kernel
def widen_rows(x: NDArray[np.unsignedinteger], kind: int, out: NDArray[np.float32]) -> None:
    """widen_row for every row of x (rows, cols); NaN and Inf pass through."""
    for r in range(x.shape[0]):
        widen_row(x[r], kind, out[r])


def widen(x: NDArray[np.generic], dtype: Dtype) -> NDArray[np.float32]:
    """Return the weights as float32.

    x       (rows, cols) as for patterns
    Result  float32 (rows, cols), a new array; exact, NaN and Inf kept
    """
    bits = patterns(x, dtype)
    out = np.empty(bits.shape, np.float32)
    widen_rows(bits, KINDS[dtype], out)
    return out
