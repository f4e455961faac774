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


# Rows of a search's scratch, float64 (FITS, groups): the frame of the image, its sums, those of one
# candidate's codes, and of the best one what it explains and what the scale is made from.
CENTRE, GAIN, N, SW, SU, SUU, SWU, BEST, BEST_SU, BEST_SUU, BEST_SWU, LOW = range(12)
FITS = 12


@inlined
def _frames(
    lo: NDArray[np.float32], hi: NDArray[np.float32], symmetric: bool, fits: NDArray[np.float64]
) -> None:
    """Centre and gain, float32 numbers, that bring groups spanning lo .. hi to 16 bits."""
    for g in range(lo.size):
        low, high = np.float64(lo[g]), np.float64(hi[g])
        centre = np.float64(0.0) if symmetric else np.float64(np.float32((low + high) * 0.5))
        span = max(high, -low) if symmetric else np.float64(0.5) * (high - low)
        fits[CENTRE, g] = centre
        fits[GAIN, g] = np.float64(np.float32(UNITS / span))


@inlined
def _keep_best_asymmetric(fits: NDArray[np.float64]) -> None:
    """Where the candidate explains more than the best one so far, it becomes the best."""
    for g in range(fits.shape[1]):
        n, sw, a, b, c = fits[N, g], fits[SW, g], fits[SU, g], fits[SUU, g], fits[SWU, g]
        determinant = n * b - a * a
        shift = b * sw - a * c
        explained = ((n * c - sw * a) * c + shift * sw) / determinant
        better = determinant > 0.0 and explained > fits[BEST, g]
        fits[BEST, g] = explained if better else fits[BEST, g]
        fits[BEST_SU, g] = a if better else fits[BEST_SU, g]
        fits[BEST_SUU, g] = b if better else fits[BEST_SUU, g]
        fits[BEST_SWU, g] = c if better else fits[BEST_SWU, g]
        fits[LOW, g] = shift / determinant if better else fits[LOW, g]


@inlined
def _keep_best_symmetric(half: np.float64, fits: NDArray[np.float64]) -> None:
    """The same around the code half; LOW is the scale."""
    for g in range(fits.shape[1]):
        a, b, c = fits[SU, g], fits[SUU, g], fits[SWU, g]
        squares = b - 2.0 * half * a + fits[N, g] * half * half
        product = c - half * fits[SW, g]
        better = squares > 0.0 and product * product > fits[BEST, g] * squares
        fits[BEST, g] = product * product / squares if better else fits[BEST, g]
        fits[LOW, g] = product / squares if better else fits[LOW, g]


@inlined
def _halves(symmetric: bool, fits: NDArray[np.float64], found: NDArray[np.uint16]) -> None:
    """Scale and minimum of the best refits to found (2, groups), as halves."""
    for g in range(fits.shape[1]):
        gain, centre = fits[GAIN, g], fits[CENTRE, g]
        if symmetric:
            found[0, g] = half_nearest1(np.float32(fits[LOW, g] / gain))
            found[1, g] = 0
        else:
            m = half_nearest1(np.float32(centre + fits[LOW, g] / gain))
            low = (np.float64(single1(m)) - centre) * gain
            su, suu = fits[BEST_SU, g], fits[BEST_SUU, g]
            scale = half_nearest1(np.float32((fits[BEST_SWU, g] - low * su) / suu / gain))
            found[0, g] = 0 if suu == 0.0 else scale
            found[1, g] = m


@uncounted
def fit_row(
    w: NDArray[np.float32],
    importance: NDArray[np.float32] | None,
    group: int,
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    bits: int,
    symmetric: bool,
    slopes: NDArray[np.float32],
    image: NDArray[np.float32],
    fits: NDArray[np.float64],
    found: NDArray[np.uint16],
) -> None:
    """Write scale and minimum (0 when symmetric) of the best refit of every group to found.

    fits    float64 (FITS, groups), scratch; found, uint16 (2, groups); other arguments as refine_row
    """
    top = (1 << bits) - 1
    half = np.float64(1 << (bits - 1))
    offset = half + 0.5 if symmetric else 0.5 * top + 0.5
    _frames(lo, hi, symmetric, fits)
    for g in range(lo.size):
        start, stop = g * group, min((g + 1) * group, w.size)
        centre, gain = np.float32(fits[CENTRE, g]), np.float32(fits[GAIN, g])
        fits[N, g], fits[SW, g] = stop - start, image_group(w, start, stop, centre, gain, image)
        if importance is not None:
            fits[N, g], fits[SW, g] = weighted_total(image, importance, start, stop)
        fits[BEST, g] = 0.0 if symmetric else -np.inf
        fits[BEST_SU, g] = fits[BEST_SUU, g] = fits[BEST_SWU, g] = fits[LOW, g] = 0.0
    for k in range(slopes.size):
        for g in range(lo.size):
            start, stop = g * group, min((g + 1) * group, w.size)
            fits[SU, g], fits[SUU, g], fits[SWU, g] = moments(
                image, importance, start, stop, slopes[k], offset, top
            )
        if symmetric:
            _keep_best_symmetric(half, fits)
        else:
            _keep_best_asymmetric(fits)
    _halves(symmetric, fits, found)


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
    fits: NDArray[np.float64],
    found: NDArray[np.uint16],
) -> None:
    """Replace scales and mins, as halves, of a row where the search makes the error smaller.

    w             float32 (cols,), finite, with room as for encode.encode_row
    importance    float32 (cols,), see importance, or None: all weights count the same
    lo, hi        range of each group (groups,)
    slopes        float32 (candidates,), codes per image unit, see slopes_for
    scales, mins  (groups,) as written by minmax.params_row; mins is not used when symmetric
    image         float32, scratch, shape and room of w; fits and found, see fit_row

    Each step goes through all groups of the row before the next one: what is done once for a group
    is then done for several at a time, and none waits for another's sums.
    """
    fit_row(w, importance, group, lo, hi, bits, symmetric, slopes, image, fits, found)
    zero, top = (1 << (bits - 1)) if symmetric else 0, (1 << bits) - 1
    for g in range(lo.size):
        start, stop = g * group, min((g + 1) * group, w.size)
        scale, low = single1(found[0, g]), single1(found[1, g])
        kept = np.float32(0.0) if symmetric else single1(mins[g])
        fits[SU, g] = squared_error(w, importance, start, stop, scale, low, zero, top)
        fits[SUU, g] = squared_error(
            w, importance, start, stop, single1(scales[g]), kept, zero, top
        )
    for g in range(lo.size):
        wide = np.float64(hi[g]) - np.float64(lo[g]) >= TINY
        if wide and fits[SU, g] < fits[SUU, g]:
            scales[g] = found[0, g]
            if not symmetric:
                mins[g] = found[1, g]
