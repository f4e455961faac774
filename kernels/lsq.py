"""Shrunken ranges refitted by least squares; the group keeps the best.

The range of a group is shrunk by a few factors about its centre. For each, weights are rounded to
codes u and the scale and minimum are refitted in closed form to those codes:

    D = n Suu - Su^2,   s = (n Swu - Sw Su) / D,   m = (Suu Sw - Su Swu) / D
    squared error = Sww - s Swu - m Sw

(symmetric: s = Swu / Suu over signed codes, for both signs of s, because -2^(bits - 1) has no
positive twin). The best refit has its minimum rounded to float16, its scale refitted to that
minimum and rounded, and its codes rounded again. A group never ends with a larger squared error
than minmax would give it: both are measured with the values as stored, and the smaller is kept.

The search runs on a 16-bit fixed-point image of the group, centred and scaled to its range. All
sums are then integers: exact in any order, so they vectorise and yet give the same codes on every
processor. One code step of 8 bits is 257 units of the image.

Source: Lloyd, Least squares quantization in PCM, 1982 (alternate codes and reconstruction); the
affine refit is linear regression, as in searches for k-quant formats.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.bitpack import pack_row
from kernels.encode import add_sums, code_group, error_group
from kernels.fidelity import COLUMNS, E2
from kernels.half import half_nearest1, single1
from kernels.minmax import params1
from kernels.ranges import finite1, key_range, unkey1
from kernels.widen import first_nonfinite, widen_row

UNITS = 32767.0  # image units per half range
CHUNK = 256  # 256 weights * 32768 units * code 255 stays below 2^31
TINY = 2.0**-26  # half ranges below this are under the resolution of float16: minmax is kept

CANDIDATES = 5
SPAN = {2: 0.6, 3: 0.4, 4: 0.3, 8: 0.1}  # how far the range shrinks at most


@kernel
def image_group(
    w: NDArray[np.float32],
    start: int,
    stop: int,
    centre: np.float32,
    gain: np.float32,
    image: NDArray[np.int32],
) -> int:
    """Write round((w - centre) * gain), clipped to 16 bits, to image[start:stop]; return its sum."""
    total = np.int64(0)
    for i in range(start, stop):
        t = np.float32(np.float32(np.float32(w[i] - centre) * gain) + np.float32(32768.5))
        t = t if t > np.float32(0.0) else np.float32(0.0)
        t = t if t < np.float32(65535.0) else np.float32(65535.0)
        image[i] = np.int32(np.int32(t) - 32768)
    for i in range(start, stop):
        total += image[i]
    return total


@kernel
def _moments(
    image: NDArray[np.int32], start: int, stop: int, slope: np.float32, offset: np.float32, top: int
) -> tuple[int, int, int]:
    """Sums of u, u^2 and image * u over at most CHUNK weights; int32 is enough."""
    su, suu, swu = np.int32(0), np.int32(0), np.int32(0)
    ceiling = np.float32(top)
    for i in range(start, stop):
        t = np.float32(np.float32(np.float32(image[i]) * slope) + offset)
        t = t if t > np.float32(0.0) else np.float32(0.0)
        t = t if t < ceiling else ceiling
        u = np.int32(t)
        su = np.int32(su + u)
        suu = np.int32(suu + np.int32(u * u))
        swu = np.int32(swu + np.int32(image[i] * u))
    return np.int64(su), np.int64(suu), np.int64(swu)


@kernel
def moments(
    image: NDArray[np.int32], start: int, stop: int, slope: np.float32, offset: np.float32, top: int
) -> tuple[np.float64, np.float64, np.float64]:
    """Sums of u, u^2 and image * u with u = clip(floor(image * slope + offset), 0, top)."""
    su, suu, swu = np.int64(0), np.int64(0), np.int64(0)
    for first in range(start, stop, CHUNK):
        a, b, c = _moments(image, first, min(first + CHUNK, stop), slope, offset, top)
        su, suu, swu = su + a, suu + b, swu + c
    return np.float64(su), np.float64(suu), np.float64(swu)


@kernel
def fit_asymmetric(
    w: NDArray[np.float32],
    start: int,
    stop: int,
    lo: np.float32,
    hi: np.float32,
    bits: int,
    count: int,
    span: float,
    image: NDArray[np.int32],
) -> tuple[int, int]:
    """Scale and minimum, as halves, of the best refit for w[start:stop], which spans lo .. hi."""
    half_range = (np.float64(hi) - np.float64(lo)) * 0.5
    centre = np.float32((np.float64(hi) + np.float64(lo)) * 0.5)
    gain = np.float32(UNITS / half_range)
    sw = np.float64(image_group(w, start, stop, centre, gain, image))
    n = np.float64(stop - start)
    top = (1 << bits) - 1
    best = -np.inf
    su, suu, swu, low = 0.0, 0.0, 0.0, 0.0
    for k in range(count):
        slope = top / (2.0 * UNITS * (1.0 - span * k / count))
        a, b, c = moments(image, start, stop, np.float32(slope), np.float32(0.5 * top + 0.5), top)
        determinant = n * b - a * a
        if determinant > 0.0:
            scale = (n * c - sw * a) / determinant
            shift = (b * sw - a * c) / determinant
            explained = scale * c + shift * sw
            if explained > best:
                best, su, suu, swu, low = explained, a, b, c, shift
    m = half_nearest1(np.float32(np.float64(centre) + low / np.float64(gain)))
    if suu > 0.0:
        low = (np.float64(single1(m)) - np.float64(centre)) * np.float64(gain)
        scale = (swu - low * su) / suu
        return half_nearest1(np.float32(scale / np.float64(gain))), m
    return 0, m


@kernel
def fit_symmetric(
    w: NDArray[np.float32],
    start: int,
    stop: int,
    lo: np.float32,
    hi: np.float32,
    bits: int,
    count: int,
    span: float,
    image: NDArray[np.int32],
) -> tuple[int, int]:
    """Scale, as a half, of the best refit for w[start:stop], which spans lo .. hi; minimum 0."""
    gain = np.float32(UNITS / max(np.float64(hi), -np.float64(lo)))
    sw = np.float64(image_group(w, start, stop, np.float32(0.0), gain, image))
    n = np.float64(stop - start)
    top = (1 << bits) - 1
    half = np.float64(1 << (bits - 1))
    best, best_scale = -np.inf, 0.0
    for k in range(2 * count):
        slope = half / (UNITS * (1.0 - span * (k // 2) / count))
        if k % 2:
            slope = -slope
        a, b, c = moments(image, start, stop, np.float32(slope), np.float32(half + 0.5), top)
        squares = b - 2.0 * half * a + n * half * half
        product = c - half * sw
        if squares > 0.0 and product * product > best * squares:
            best = product * product / squares
            best_scale = product / squares
    return half_nearest1(np.float32(best_scale / np.float64(gain))), 0


@kernel
def quantize_rows(
    x: NDArray[np.unsignedinteger],
    kind: int,
    bits: int,
    group: int,
    symmetric: bool,
    count: int,
    span: float,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    sums: NDArray[np.float64],
) -> int:
    """Quantize a block of rows; arrays and result as in minmax.quantize_rows.

    count   shrink factors tried, 1 - span * k / count for k = 0 .. count - 1
    """
    rows, cols = x.shape
    w = np.empty(cols, np.float32)
    image = np.empty(cols, np.int32)
    q = np.zeros((cols + 7) // 8 * 8, np.uint8)
    part = np.empty((2, COLUMNS), np.float64)
    top = (1 << bits) - 1
    zero = (1 << (bits - 1)) if symmetric else 0
    for r in range(rows):
        widen_row(x[r], kind, w)
        sums[r, :] = 0.0
        for g in range(scales.shape[1]):
            start, stop = g * group, min((g + 1) * group, cols)
            low_key, high_key = key_range(w.view(np.int32), start, stop)
            if not finite1(low_key, high_key):
                return r * cols + first_nonfinite(w)
            lo, hi = unkey1(low_key), unkey1(high_key)
            scale, low = params1(lo, hi, bits, symmetric)
            code_group(w, start, stop, single1(scale), single1(low), zero, top, q)
            error_group(w, start, stop, single1(scale), single1(low), zero, q, part[0])
            kept = 0
            if (np.float64(hi) - np.float64(lo)) * 0.5 >= TINY:
                if symmetric:
                    s, m = fit_symmetric(w, start, stop, lo, hi, bits, count, span, image)
                else:
                    s, m = fit_asymmetric(w, start, stop, lo, hi, bits, count, span, image)
                code_group(w, start, stop, single1(s), single1(m), zero, top, q)
                error_group(w, start, stop, single1(s), single1(m), zero, q, part[1])
                if part[1, E2] < part[0, E2]:
                    scale, low, kept = s, m, 1
                else:
                    code_group(w, start, stop, single1(scale), single1(low), zero, top, q)
            scales[r, g] = scale
            if not symmetric:
                mins[r, g] = low
            add_sums(sums[r], part[kept])
        pack_row(q, bits, codes[r])
    return -1
