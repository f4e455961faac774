"""Blocks of rows to trellis codes and back; the format is in trellis, the forward pass in viterbi.

The steps of a row go from its last code to its first, because a window begins with its own code: from
the codes after it, the next step knows all but the lowest bits of its window. The codes of a row are
a circle, so a path must end in the node it began in. Which one that is, is found first, by a path of
its own over the last and first REACH codes around the place where the ends meet. Then the row is
coded in spans with both ends fixed. A path is certain only some steps back: a span begins in the
node where the one before it was REACH steps before its end, and goes over these steps again.

Weights are multiplied by LENGTH UNIT FINER / (root of their mean square) and rounded to 16 bits, so
the search does not depend on their size; the scale is that of least squares for the codes found.
Codes beyond cols are those of zeros.

Source: Marcellin & Fischer, Trellis coded quantization of memoryless and Gauss-Markov sources, 1990;
ends that meet: Shao, Lin & Fossorier, Two decoding algorithms for tailbiting codes, 2003.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import inlined, kernel, uncounted
from kernels.bitpack import pack_row
from kernels.fidelity import W2, WQ
from kernels.half import half_nearest1, single1
from kernels.importance import weighted_measure
from kernels.ranges import finite1, key_range
from kernels.superrows import measure_row
from kernels.trelliscode import COUNT, FINER, UNIT
from kernels.trellispath import REACH, SPAN, search
from kernels.unbiased import factor1, stretch_row
from kernels.widen import first_nonfinite, padded, widen_row

LENGTH = 0.96  # levels on the length of weights: best by measurement, 0.97 at 2 bits, 0.95 at 4


@inlined
def _levels_row(
    codes: NDArray[np.uint8], bits: int, values: NDArray[np.float32], out: NDArray[np.float32]
) -> None:
    """Write the level of every code to out (cols,); codes as packed."""
    size, inside = codes.size, max(codes.size - 2, 0) * 8 // bits
    for c in range(min(out.size, inside)):
        byte = (c * bits) >> 3
        word = np.uint32(codes[byte]) | (np.uint32(codes[byte + 1]) << 8)
        word |= np.uint32(codes[byte + 2]) << 16
        out[c] = values[(word >> ((c * bits) & 7)) & (COUNT - 1)]
    for c in range(inside, out.size):  # windows over the end
        byte = (c * bits) >> 3
        word = np.uint32(codes[byte]) | (np.uint32(codes[(byte + 1) % size]) << 8)
        word |= np.uint32(codes[(byte + 2) % size]) << 16
        out[c] = values[(word >> ((c * bits) & 7)) & (COUNT - 1)]


@uncounted
def _scaled(w: NDArray[np.float32], x: NDArray[np.int16]) -> None:
    """Write w (cols,) in the order of steps to x (steps,), as the search takes it; see above."""
    energy = np.float64(0.0)
    for c in range(w.size):
        energy += np.float64(w[c]) * np.float64(w[c])
    gain = np.float64(0.0)
    if energy > 0.0:
        gain = np.float64(LENGTH * UNIT * FINER) / np.sqrt(energy / w.size)
    last = x.size - 1
    for t in range(x.size - w.size):
        x[t] = 0
    for c in range(w.size):
        value = np.floor(np.float64(w[c]) * gain + 0.5)
        x[last - c] = np.int16(min(max(value, -32767.0), 32767.0))


@kernel
def gains_for(importance: NDArray[np.float32] | None, bits: int, steps: int) -> NDArray[np.int16]:
    """Gains of columns in the order of steps, int16 (steps,), 4096 standing for 1; see viterbi.

    They are roots of importances over their mean, 1 at 2 bits and 2 at 3 and 4, where costs are small
    integers otherwise; at most 8. Empty without importances, and if all are zero: then all weights
    count the same.
    """
    total = np.float64(0.0)
    if importance is not None:
        for c in range(importance.size):
            total += np.float64(importance[c])
    gains = np.zeros(steps if total > 0.0 else 0, np.int16)
    if importance is not None and total > 0.0:
        one = 4096.0 if bits == 2 else 8192.0
        for c in range(importance.size):
            root = np.sqrt(np.float64(importance[c]) / (total / importance.size))
            gains[steps - 1 - c] = np.int16(min(np.floor(one * root + 0.5), 32767.0))
    return gains


@kernel
def _fitted(
    w: NDArray[np.float32], v: NDArray[np.float32], importance: NDArray[np.float32] | None
) -> np.float64:
    """The scale of least squares for levels v: <w, v> / <v, v>; 0 if v is nothing."""
    wv, vv = np.float64(0.0), np.float64(0.0)
    for c in range(w.size):
        h = np.float64(v[c])
        if importance is not None:
            h *= np.float64(importance[c])
        wv += h * np.float64(w[c])
        vv += h * np.float64(v[c])
    return np.float64(wv / vv if vv > 0.0 else 0.0)


@uncounted
def _times(levels: NDArray[np.float32], scale: np.float32, out: NDArray[np.float32]) -> None:
    for c in range(out.size):
        out[c] = np.float32(scale * levels[c])


@kernel
def _measure(
    w: NDArray[np.float32],
    v: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    sums: NDArray[np.float64],
    weighted: NDArray[np.float64],
) -> None:
    """Write the error sums of decoded values; weighted is (0,) without importances."""
    measure_row(w, v, sums)
    if importance is not None:
        weighted_measure(w, importance, v, weighted)


@kernel
def quantize_trellis_rows(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    values: NDArray[np.float32],
    table: NDArray[np.int16],
    importance: NDArray[np.float32] | None,
    unbias: float,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    sums: NDArray[np.float64],
    weighted: NDArray[np.float64],
) -> int:
    """Quantize a block of rows.

    x              patterns (rows, cols) of the given kind, see widen
    values, table  see trelliscode
    codes, scales  see trellis.EncodedTrellis, scales as uint16; written
    Other arguments and the result as rows.quantize_rows.
    """
    rows, cols = x.shape
    steps = codes.shape[1] * 8 // bits
    wide, decoded = np.zeros(padded(cols), np.float32), np.zeros(padded(cols), np.float32)
    w, v, levels = wide[:cols], decoded[:cols], np.empty(cols, np.float32)
    costs = np.empty((SPAN + 1, table.shape[1]), np.uint16)
    scaled, gains = np.empty(steps, np.int16), gains_for(importance, bits, steps)
    joint = np.empty((2, 2 * REACH), np.int16)
    q, ordered = np.zeros(steps, np.uint8), np.zeros((steps + 7) // 8 * 8, np.uint8)
    before = np.empty(1, np.uint16)
    for r in range(rows):
        widen_row(x[r], kind, w)
        low, high = key_range(w, 0, cols)
        if not finite1(low, high):
            return int(r * cols + first_nonfinite(w))
        _scaled(w, scaled)
        search(costs, table, scaled, gains, joint, q)
        for t in range(steps):
            ordered[t] = q[steps - 1 - t]
        pack_row(ordered, bits, codes[r])
        _levels_row(codes[r], bits, values, levels)
        fit = _fitted(w, levels, importance if gains.size > 0 else None)
        scales[r] = half_nearest1(np.float32(min(max(fit, -65504.0), 65504.0)))
        _times(levels, single1(scales[r]), v)
        _measure(w, v, importance, sums[r], weighted[r])
        total = sums[r] if importance is None else weighted[r]
        factor = factor1(total[W2], total[WQ], np.float64(unbias))
        if factor != 1.0:
            stretch_row(scales[r : r + 1], factor, before)
            _times(levels, single1(scales[r]), v)
            _measure(w, v, importance, sums[r], weighted[r])
    return -1


@kernel
def dequantize_trellis_rows(
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    bits: int,
    values: NDArray[np.float32],
    out: NDArray[np.float32],
) -> None:
    """Decode a block of rows to out (rows, cols); arguments as quantize_trellis_rows."""
    for r in range(out.shape[0]):
        _levels_row(codes[r], bits, values, out[r])
        _times(out[r], single1(scales[r]), out[r])
