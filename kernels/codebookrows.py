"""Blocks of rows to the levels of a codebook and back; the rule is in codebook."""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel, uncounted
from kernels.bitpack import pack_row, unpack_row
from kernels.half import half_nearest1, single1
from kernels.importance import weighted_measure
from kernels.ranges import group_ranges
from kernels.superrows import measure_row
from kernels.widen import first_nonfinite, padded, widen_row

REFITS = 3


@uncounted
def nearest_codes(
    w: NDArray[np.float32], scale: np.float32, edges: NDArray[np.float32], q: NDArray[np.int32]
) -> None:
    """Write the codes of weights w (n,) with a scale to q (n,).

    All weights are compared with one edge after the other, many at a time: even for 255 edges twice as
    fast as halving them for each weight.
    """
    inverse = np.float32(0.0) if scale == 0 else np.float32(np.float32(1.0) / scale)
    for i in range(w.size):
        q[i] = 0
    for k in range(edges.size):
        edge = edges[k]
        for i in range(w.size):
            q[i] += np.int32(np.float32(w[i] * inverse) >= edge)


@inlined
def _products(
    w: NDArray[np.float32],
    h: NDArray[np.float32] | None,
    levels: NDArray[np.float32],
    q: NDArray[np.int32],
) -> tuple[np.float64, np.float64]:
    """Sums of h w L and h L^2."""
    wl, ll = np.float64(0.0), np.float64(0.0)
    for i in range(w.size):
        level = np.float64(levels[q[i]])
        hl = level if h is None else np.float64(h[i]) * level
        wl += np.float64(w[i]) * hl
        ll += level * hl
    return wl, ll


@inlined
def _stored_error(
    w: NDArray[np.float32],
    h: NDArray[np.float32] | None,
    scale: np.float32,
    levels: NDArray[np.float32],
    edges: NDArray[np.float32],
    q: NDArray[np.int32],
) -> np.float64:
    nearest_codes(w, scale, edges, q)
    total = np.float64(0.0)
    for i in range(w.size):
        e = np.float64(w[i]) - np.float64(np.float32(scale * levels[q[i]]))
        total += e * e if h is None else np.float64(h[i]) * (e * e)
    return total


@uncounted
def search_group(
    w: NDArray[np.float32],
    h: NDArray[np.float32] | None,
    levels: NDArray[np.float32],
    edges: NDArray[np.float32],
    starts: NDArray[np.float64],
    first: Integer,
    q: NDArray[np.int32],
) -> Integer:
    """The best scale of a group, as a half.

    w, h    float32 (n,), finite; importances or None
    starts  see codebook.starts_for
    first   the absmax scale, as a half, which is kept unless another one is better
    q       int32 (n,), scratch
    """
    best, least = first, _stored_error(w, h, single1(first), levels, edges, q)
    total, count = np.float64(0.0), np.float64(0.0)
    for i in range(w.size):
        x = np.float64(w[i])
        total += x * x if h is None else np.float64(h[i]) * (x * x)
        count += 1.0 if h is None else np.float64(h[i])
    size = np.sqrt(total / count) if total > 0.0 else np.float64(0.0)
    for k in range(-1, starts.size if size > 0.0 else -1):
        scale = single1(first) if k < 0 else np.float32(size * starts[k])
        for _ in range(REFITS):
            nearest_codes(w, scale, edges, q)
            wl, ll = _products(w, h, levels, q)
            scale = np.float32(wl / ll) if ll > 0.0 else np.float32(0.0)
        half = half_nearest1(scale)
        error = _stored_error(w, h, single1(half), levels, edges, q)
        if error < least:
            best, least = half, error
    return best


@kernel
def quantize_codebook_rows(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    group: int,
    levels: NDArray[np.float32],
    edges: NDArray[np.float32],
    starts: NDArray[np.float64],
    importance: NDArray[np.float32] | None,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    sums: NDArray[np.float64],
    weighted: NDArray[np.float64],
) -> int:
    """Quantize a block of rows.

    levels, edges, starts   see codebooks and codebook.starts_for
    Other arguments and result as rows.quantize_rows.
    """
    rows, cols = x.shape
    room = padded(cols)
    wide, values = np.zeros(room, np.float32), np.zeros(room, np.float32)
    w, v = wide[:cols], values[:cols]
    q, numbers = np.zeros(room, np.uint8), np.empty(cols, np.int32)
    lo, hi = np.empty(scales.shape[1], np.float32), np.empty(scales.shape[1], np.float32)
    unit = np.float32(max(abs(levels[0]), abs(levels[-1])))
    for r in range(rows):
        widen_row(x[r], kind, w)
        if not group_ranges(w, group, lo, hi):
            return int(r * cols + first_nonfinite(w))
        for g in range(scales.shape[1]):
            start, stop = g * group, min((g + 1) * group, cols)
            part, found = w[start:stop], numbers[start:stop]
            half = half_nearest1(np.float32(max(hi[g], -lo[g]) / unit))
            if starts.size > 0:
                h = None if importance is None else importance[start:stop]
                half = search_group(part, h, levels, edges, starts, half, found)
            scales[r, g] = half
            scale = single1(half)
            nearest_codes(part, scale, edges, found)
            for i in range(part.size):
                q[start + i] = np.uint8(found[i])
                v[start + i] = np.float32(scale * levels[found[i]])
        measure_row(w, v, sums[r])
        if importance is not None:
            weighted_measure(w, importance, v, weighted[r])
        pack_row(q, bits, codes[r])
    return -1


@kernel
def dequantize_codebook_rows(
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    bits: int,
    group: int,
    levels: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Decode a block of rows to out (rows, cols); levels are 2^bits."""
    rows, cols = out.shape
    q = np.empty(cols, np.uint8)
    for r in range(rows):
        unpack_row(codes[r], bits, q)
        for g in range(scales.shape[1]):
            scale = single1(scales[r, g])
            for c in range(g * group, min((g + 1) * group, cols)):
                out[r, c] = np.float32(scale * levels[q[c]])
