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

from kernels._jit import Integer, Real, kernel
from kernels.bitpack import pack_row
from kernels.encode import add_sums, encode_group
from kernels.fidelity import COLUMNS, E2
from kernels.half import half_nearest1, single1
from kernels.minmax import params1
from kernels.ranges import finite1, key_range, unkey1
from kernels.widen import first_nonfinite, widen_row

UNITS = 32767.0  # image units per half range
CHUNK = 256  # 256 weights * 32768 units * code 255 stays below 2^31
TINY = 2.0**-25  # ranges below this are under the resolution of float16: minmax is kept

CANDIDATES = 5
SPAN = {2: 0.6, 3: 0.4, 4: 0.3, 8: 0.1}  # how far the range shrinks at most


@kernel
def _image(
    w: NDArray[np.float32], centre: np.float32, gain: np.float32, image: NDArray[np.int32]
) -> Integer:
    total = np.int32(0)
    for i in range(w.size):
        t = np.float32(np.float32(np.float32(w[i] - centre) * gain) + np.float32(32768.5))
        t = t if t > np.float32(0.0) else np.float32(0.0)
        t = t if t < np.float32(65535.0) else np.float32(65535.0)
        value = np.int32(np.int32(t) - np.int32(32768))
        image[i] = value
        total = np.int32(total + value)
    return np.int64(total)


@kernel
def image_group(
    w: NDArray[np.float32], centre: np.float32, gain: np.float32, image: NDArray[np.int32]
) -> np.float64:
    """Write round((w - centre) * gain), clipped to 16 bits, to image (n,); return its sum."""
    total = np.int64(0)
    for start in range(0, w.size, CHUNK):
        stop = min(start + CHUNK, w.size)
        total += _image(w[start:stop], centre, gain, image[start:stop])
    return np.float64(total)


@kernel
def _moments(
    image: NDArray[np.int32], slope: np.float32, offset: np.float32, top: Integer
) -> tuple[Integer, Integer, Integer]:
    su, suu, swu = np.int32(0), np.int32(0), np.int32(0)
    ceiling = np.float32(top)
    for i in range(image.size):
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
    image: NDArray[np.int32], slope: Real, offset: Real, top: Integer
) -> tuple[np.float64, np.float64, np.float64]:
    """Sums of u, u^2 and image * u with u = clip(floor(image * slope + offset), 0, top).

    Taken over CHUNK weights at a time in 32 bits, then in 64; exact.
    """
    su, suu, swu = np.int64(0), np.int64(0), np.int64(0)
    for start in range(0, image.size, CHUNK):
        part = image[start : min(start + CHUNK, image.size)]
        a, b, c = _moments(part, np.float32(slope), np.float32(offset), top)
        su, suu, swu = su + a, suu + b, swu + c
    return np.float64(su), np.float64(suu), np.float64(swu)


@kernel
def fit_asymmetric(
    w: NDArray[np.float32],
    lo: np.float32,
    hi: np.float32,
    bits: int,
    count: int,
    span: float,
    image: NDArray[np.int32],
) -> tuple[Integer, Integer]:
    """Scale and minimum, as halves, of the best refit for w (n,), which spans lo .. hi.

    count, span   shrink factors 1 - span * k / count, k = 0 .. count - 1
    image         int32 (n,), written
    """
    centre = np.float32((np.float64(hi) + np.float64(lo)) * 0.5)
    gain = np.float32(2.0 * UNITS / (np.float64(hi) - np.float64(lo)))
    sw = image_group(w, centre, gain, image)
    n = np.float64(w.size)
    top = (1 << bits) - 1
    best, su, suu, swu, low = -np.inf, 0.0, 0.0, 0.0, 0.0
    for k in range(count):
        slope = top / (2.0 * UNITS * (1.0 - span * k / count))
        a, b, c = moments(image, slope, 0.5 * top + 0.5, top)
        determinant = n * b - a * a
        if determinant > 0.0:
            scale = (n * c - sw * a) / determinant
            shift = (b * sw - a * c) / determinant
            explained = scale * c + shift * sw
            if explained > best:
                best, su, suu, swu, low = explained, a, b, c, shift
    m = half_nearest1(np.float32(np.float64(centre) + low / np.float64(gain)))
    if suu == 0.0:
        return 0, m
    low = (np.float64(single1(m)) - np.float64(centre)) * np.float64(gain)
    scale = (swu - low * su) / suu
    return half_nearest1(np.float32(scale / np.float64(gain))), m


@kernel
def fit_symmetric(
    w: NDArray[np.float32],
    lo: np.float32,
    hi: np.float32,
    bits: int,
    count: int,
    span: float,
    image: NDArray[np.int32],
) -> tuple[Integer, Integer]:
    """Scale, as a half, of the best refit for w (n,), which spans lo .. hi; and minimum 0.

    Other arguments as fit_asymmetric; every factor is tried with both signs of the scale.
    """
    gain = np.float32(UNITS / max(np.float64(hi), -np.float64(lo)))
    sw = image_group(w, np.float32(0.0), gain, image)
    n = np.float64(w.size)
    top = (1 << bits) - 1
    half = np.float64(1 << (bits - 1))
    best, best_scale = 0.0, 0.0
    for k in range(2 * count):
        slope = half / (UNITS * (1.0 - span * (k // 2) / count))
        a, b, c = moments(image, -slope if k % 2 else slope, half + 0.5, top)
        squares = b - 2.0 * half * a + n * half * half
        product = c - half * sw
        if squares > 0.0 and product * product > best * squares:
            best = product * product / squares
            best_scale = product / squares
    return half_nearest1(np.float32(best_scale / np.float64(gain))), 0


@kernel
def fit1(
    w: NDArray[np.float32],
    lo: np.float32,
    hi: np.float32,
    bits: int,
    symmetric: bool,
    count: int,
    span: float,
    image: NDArray[np.int32],
) -> tuple[Integer, Integer]:
    """Scale and minimum, as halves, of the best refit; arguments as fit_asymmetric."""
    if symmetric:
        return fit_symmetric(w, lo, hi, bits, count, span, image)
    return fit_asymmetric(w, lo, hi, bits, count, span, image)


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

    count, span   see fit_asymmetric
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
            v, u = w[start:stop], q[start:stop]
            low_key, high_key = key_range(v)
            if not finite1(low_key, high_key):
                return int(r * cols + first_nonfinite(w))
            lo, hi = unkey1(low_key), unkey1(high_key)
            scale, low = params1(lo, hi, bits, symmetric)
            encode_group(v, single1(scale), single1(low), zero, top, u, part[0])
            kept = 0
            if np.float64(hi) - np.float64(lo) >= TINY:
                s, m = fit1(v, lo, hi, bits, symmetric, count, span, image[start:stop])
                encode_group(v, single1(s), single1(m), zero, top, u, part[1])
                if part[1, E2] < part[0, E2]:
                    scale, low, kept = s, m, 1
                else:
                    encode_group(v, single1(scale), single1(low), zero, top, u, part[0])
            scales[r, g] = scale
            if not symmetric:
                mins[r, g] = low
            add_sums(sums[r], part[kept])
        pack_row(q, bits, codes[r])
    return -1
