"""Single precision to half precision and back, on bit patterns.

Numba has no float16 on the CPU, so a half is an unsigned 16-bit pattern here:

    bit   15 | 14 ... 10 | 9 ... 0
        sign |  exponent | fraction        value = (-1)^sign 2^(exponent - 15) 1.fraction
                                           exponent 0: (-1)^sign 2^-14 0.fraction

Results never are NaN or Inf: what is too large becomes +-65504, the largest finite half.
Source: IEEE 754-2019, sections 3.4 and 4.3.
"""

import numpy as np

from kernels._jit import Integer, inlined

LARGEST = 0x7BFF  # 65504
SMALLEST_NORMAL = 2.0**-14


@inlined
def half_nearest1(x: np.float32) -> Integer:
    """Bit pattern of the half nearest to a finite x, ties to even; saturates at +-65504."""
    # All three cases are made and one is chosen, so that loops over scales are vectorised.
    bits = np.int64(np.float32(x).view(np.uint32))
    size = bits & 0x7FFFFFFF
    half: Integer = ((size + 0xFFF + ((size >> 13) & 1)) >> 13) - (112 << 10)
    # Below 2^-14 the last bit of 0.5f weighs 2^-24, as that of the half.
    small = np.int64(np.float32(np.float32(abs(x)) + np.float32(0.5)).view(np.uint32)) - 0x3F000000
    half = small if size < 0x38800000 else half
    half = LARGEST if size >= 0x477FF000 else half  # 65520 and above would round to infinity
    return ((bits >> 16) & 0x8000) | half


@inlined
def single1(half: Integer) -> np.float32:
    """The float32 equal to a finite half; exact."""
    # The exponent is 112 too small where the bits are put, also for a subnormal.
    size = np.float32(np.uint32((half & 0x7FFF) << 13).view(np.float32) * np.float32(2.0**112))
    return np.uint32(size.view(np.uint32) | np.uint32((half & 0x8000) << 16)).view(np.float32)


@inlined
def half_down1(x: np.float32) -> Integer:
    """Bit pattern of the largest half that is not above x (-65504 if there is none)."""
    half = half_nearest1(x)
    if single1(half) > x:
        if half & 0x8000:
            half = min(half + 1, 0x8000 | LARGEST)
        elif half == 0:
            half = 0x8001
        else:
            half -= 1
    return 0 if half == 0x8000 else half


@inlined
def half_outward1(x: np.float32) -> Integer:
    """Like half_nearest1, but a subnormal result is rounded away from zero.

    Used for scales: the step of subnormal halves is so coarse that rounding towards zero would cut
    off much of the range.
    """
    half = half_nearest1(x)
    if abs(x) < SMALLEST_NORMAL and abs(single1(half)) < abs(x):
        half += 1
    return half
