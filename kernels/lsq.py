"""Shrunken ranges refitted by least squares; the group keeps the best.

The range of a group is shrunk by a few factors about its centre. For each, weights are rounded to
codes u, to which the scale and minimum are refitted in closed form:

    D = n Suu - Su^2,   s = (n Swu - Sw Su) / D,   m = (Suu Sw - Su Swu) / D
    squared error = Sww - s Swu - m Sw

(w is the image below; symmetric: s = Swu / Suu over signed codes, for both signs of s, because
-2^(bits - 1) has no positive twin). The best refit has its minimum rounded to float16, its scale
refitted to that minimum and rounded, and its codes rounded again. A group never ends with a larger
squared error than minmax would give it: both are measured as stored, and the smaller is kept.

The search runs on a 16-bit fixed-point image of the group, centred and scaled to its range, held as
float32. Products of images and codes are exact, and so are all sums of CHUNK weights but those of
8-bit codes, which are rounded in a fixed order: the same codes on every processor. One code step of 8
bits is 257 units of the image.

Source: Lloyd, Least squares quantization in PCM, 1982 (alternate codes and reconstruction); the
affine refit is linear regression, as in searches for k-quant formats. With importances of columns
(see importance) all sums are weighted by them, and so is the squared error that decides.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, Real, inlined, uncounted
from kernels.encode import squared_error
from kernels.half import half_nearest1, single1
from kernels.importance import weighted_moments, weighted_total
from kernels.lanes import image_lanes, moments_lanes

UNITS = 32767.0  # image units per half range
CHUNK = 256  # weights summed in float32 at a time
TINY = 2.0**-25  # ranges below this are under the resolution of float16: minmax is kept

# Ranges tried, as fractions of the full one; in groups above LONG, where outliers set the range of
# very many weights, those of LONG_FACTORS.
FACTORS = {
    2: (1.0, 0.88, 0.76, 0.64, 0.52),
    3: (1.0, 0.92, 0.84, 0.76, 0.68),
    4: (1.0, 0.94, 0.88, 0.82, 0.76),
    8: (1.0, 0.98, 0.96, 0.94, 0.92),
}
LONG = 512
LONG_FACTORS = (1.0, 0.85, 0.72, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2)


def slopes_for(bits: int, group: int, symmetric: bool) -> NDArray[np.float32]:
    """Codes per image unit of every candidate, float32.

    When symmetric, with both signs and with the extreme at code 2^(bits - 1) - 1, for ternary
    weights (-a, 0, a): exact at 2 bits when a is a half, else up to the rounding of the scale.
    """
    factors = np.array(FACTORS[bits] if group <= LONG else LONG_FACTORS)
    if not symmetric:
        return (((1 << bits) - 1) / (2.0 * UNITS * factors)).astype(np.float32)
    half = 1 << (bits - 1)
    slopes = half / (UNITS * factors)
    return np.concatenate([slopes, -slopes, [(half - 1) / UNITS]]).astype(np.float32)


@inlined
def image_group(
    w: NDArray[np.float32],
    start: Integer,
    stop: Integer,
    centre: np.float32,
    gain: np.float32,
    image: NDArray[np.float32],
) -> np.float64:
    """Write round((w - centre) * gain), clipped to 16 bits, to image[start:stop]; return its sum."""
    total = np.float64(0)
    for first in range(start, stop, CHUNK):
        total += np.float64(image_lanes(w, image, first, min(first + CHUNK, stop), centre, gain))
    return total


@inlined
def moments(
    image: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    start: Integer,
    stop: Integer,
    slope: np.float32,
    offset: Real,
    top: Integer,
) -> tuple[np.float64, np.float64, np.float64]:
    """Sums of u, u^2 and image * u over image[start:stop], each times h if there are importances.

    u = clip(floor(image * slope + offset), 0, top). CHUNK weights at a time are summed in float32,
    chunks in float64.
    """
    if importance is not None:
        return weighted_moments(image, importance, start, stop, slope, offset, top)
    su, suu, swu = np.float64(0), np.float64(0), np.float64(0)
    for first in range(start, stop, CHUNK):
        last = min(first + CHUNK, stop)
        a, b, c = moments_lanes(image, first, last, slope, np.float32(offset), np.float32(top))
        su, suu, swu = su + np.float64(a), suu + np.float64(b), swu + np.float64(c)
    return su, suu, swu


@inlined
def fit_asymmetric(
    image: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    start: Integer,
    stop: Integer,
    n: np.float64,
    sw: np.float64,
    centre: np.float64,
    gain: np.float64,
    bits: int,
    slopes: NDArray[np.float32],
) -> tuple[Integer, Integer]:
    """Scale and minimum, as halves, of the best refit for a group.

    image         float32 (cols,), of which [start:stop] is round((w - centre) * gain)
    importance    float32 (cols,) or None, see importance
    n, sw         number of weights and sum of their image; sums of h and h image with importances
    slopes        float32 (candidates,), codes per image unit, see slopes_for
    """
    top = (1 << bits) - 1
    best, su, suu, swu, low = -np.inf, 0.0, 0.0, 0.0, 0.0
    for k in range(slopes.size):
        a, b, c = moments(image, importance, start, stop, slopes[k], 0.5 * top + 0.5, top)
        determinant = n * b - a * a
        if determinant > 0.0:
            shift = b * sw - a * c
            explained = ((n * c - sw * a) * c + shift * sw) / determinant
            if explained > best:
                best, su, suu, swu, low = explained, a, b, c, shift / determinant
    m = half_nearest1(np.float32(centre + low / gain))
    if suu == 0.0:
        return 0, m
    low = (np.float64(single1(m)) - centre) * gain
    return half_nearest1(np.float32((swu - low * su) / suu / gain)), m


@inlined
def fit_symmetric(
    image: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    start: Integer,
    stop: Integer,
    n: np.float64,
    sw: np.float64,
    gain: np.float64,
    bits: int,
    slopes: NDArray[np.float32],
) -> Integer:
    """Scale, as a half, of the best refit; arguments as fit_asymmetric, with 0 as the centre."""
    top = (1 << bits) - 1
    half = np.float64(1 << (bits - 1))
    best, best_scale = 0.0, 0.0
    for k in range(slopes.size):
        a, b, c = moments(image, importance, start, stop, slopes[k], half + 0.5, top)
        squares = b - 2.0 * half * a + n * half * half
        product = c - half * sw
        if squares > 0.0 and product * product > best * squares:
            best = product * product / squares
            best_scale = product / squares
    return half_nearest1(np.float32(best_scale / gain))


@inlined
def fit_group(
    w: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    start: Integer,
    stop: Integer,
    lo: np.float32,
    hi: np.float32,
    bits: int,
    symmetric: bool,
    slopes: NDArray[np.float32],
    image: NDArray[np.float32],
) -> tuple[Integer, Integer]:
    """Scale and minimum, as halves, of the best refit for w[start:stop], which spans lo .. hi.

    image   float32, scratch, shape and room of w; the minimum of a symmetric group is 0
    """
    low, high = np.float64(lo), np.float64(hi)
    centre = np.float32(0.0) if symmetric else np.float32((low + high) * 0.5)
    span = max(high, -low) if symmetric else np.float64(0.5) * (high - low)
    gain = np.float32(UNITS / span)
    n, sw = np.float64(stop - start), image_group(w, start, stop, centre, gain, image)
    if importance is not None:
        n, sw = weighted_total(image, importance, start, stop)
    unit = np.float64(gain)
    if symmetric:
        return fit_symmetric(image, importance, start, stop, n, sw, unit, bits, slopes), 0
    middle = np.float64(centre)
    return fit_asymmetric(image, importance, start, stop, n, sw, middle, unit, bits, slopes)


@uncounted
def refine_row(
    w: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    group: int,
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    bits: int,
    symmetric: bool,
    slopes: NDArray[np.float32],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    image: NDArray[np.float32],
) -> None:
    """Replace scales and mins, as halves, of a row where the search makes the error smaller.

    w             float32 (cols,), finite, with room as for encode.encode_row
    importance    float32 (cols,), see importance, or None: all weights count the same
    lo, hi        range of each group (groups,)
    slopes, image see slopes_for and fit_group
    scales, mins  (groups,) as written by minmax.params_row; mins is not used when symmetric
    """
    zero, top = (1 << (bits - 1)) if symmetric else 0, (1 << bits) - 1
    for g in range(lo.size):
        start, stop = g * group, min((g + 1) * group, w.size)
        if np.float64(hi[g]) - np.float64(lo[g]) < TINY:
            continue
        scale, low = fit_group(
            w, importance, start, stop, lo[g], hi[g], bits, symmetric, slopes, image
        )
        kept = np.float32(0.0) if symmetric else single1(mins[g])
        found = squared_error(w, importance, start, stop, single1(scale), single1(low), zero, top)
        if found < squared_error(w, importance, start, stop, single1(scales[g]), kept, zero, top):
            scales[g] = scale
            if not symmetric:
                mins[g] = low
