"""Error sums of values that were decoded elsewhere, or turned back after they were decoded."""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.blocks import over_rows
from kernels.fidelity import COLUMNS, E2, MAX, Q2, W2, WQ, ErrorSums, fold_rows
from kernels.superrows import measure_row
from kernels.widen import KINDS, Dtype, padded, patterns, widen_row


@kernel
def measure_rows(
    x: NDArray[np.unsignedinteger],
    kind: int,
    v: NDArray[np.float32],
    importance: NDArray[np.float32],
    sums: NDArray[np.float64],
) -> None:
    """Write the sums (rows, COLUMNS) of patterns x and values v, both (rows, cols), see fidelity;
    every product times the importance (cols,) of its column.

    Weight after weight in float64: the same everywhere.
    """
    w = np.empty(x.shape[1], np.float32)
    for r in range(x.shape[0]):
        widen_row(x[r], kind, w)
        w2, e2, wq, q2 = np.float64(0), np.float64(0), np.float64(0), np.float64(0)
        largest = np.float64(0)
        for c in range(w.size):
            a, b = np.float64(w[c]), np.float64(v[r, c])
            e = a - b
            h = np.float64(importance[c])
            w2 += h * (a * a)
            e2 += h * (e * e)
            wq += h * (a * b)
            q2 += h * (b * b)
            largest = max(largest, abs(e))
        sums[r, W2], sums[r, E2], sums[r, WQ], sums[r, Q2] = w2, e2, wq, q2
        sums[r, MAX] = largest


@kernel
def plain_rows(
    x: NDArray[np.unsignedinteger],
    kind: int,
    v: NDArray[np.float32],
    divisors: NDArray[np.float32] | None,
    sums: NDArray[np.float64],
) -> None:
    """The same without importances, in lanes; values are divided by the divisor (cols,) of their column before,
    where it is given."""
    cols = x.shape[1]
    wide, values = np.zeros(padded(cols), np.float32), np.zeros(padded(cols), np.float32)
    w, u = wide[:cols], values[:cols]
    for r in range(x.shape[0]):
        widen_row(x[r], kind, w)
        if divisors is None:
            u[:] = v[r]
        else:
            y = v[r]
            for c in range(cols):
                u[c] = y[c] / divisors[c]
        measure_row(w, u, sums[r])


def measure(
    x: NDArray[np.generic],
    decoded: NDArray[np.float32],
    *,
    dtype: Dtype,
    weights: NDArray[np.float32] | None = None,
    divisors: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> ErrorSums:
    """How far decoded values are from weights; with importances of columns as `weights`, how far the
    layer's output is (see importance).

    x        (rows, cols) as for engine.quantize, cols >= 1
    decoded  float32 (rows, cols), C order
    divisors float32 (cols,), what the columns of `decoded` are divided by first; not together with `weights`
    """
    rows, cols = x.shape
    bit_patterns, kind = patterns(x, dtype), KINDS[dtype]
    sums = np.empty((rows, COLUMNS), np.float64)

    def work(part: slice) -> int:
        if weights is None:
            plain_rows(bit_patterns[part], kind, decoded[part], divisors, sums[part])
        else:
            measure_rows(bit_patterns[part], kind, decoded[part], weights, sums[part])
        return -1

    over_rows(work, rows, cols, threads)
    return fold_rows(sums, cols)
