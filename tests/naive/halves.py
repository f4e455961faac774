"""Float16 rounding as NumPy does it, with the saturation the kernels promise."""

import numpy as np

LARGEST = np.float16(65504.0)


def nearest(x):
    return np.float16(np.clip(np.float64(np.float32(x)), -65504.0, 65504.0).astype(np.float32))


def down(x):
    half = nearest(x)
    if np.float32(half) > np.float32(x) and half > -LARGEST:
        half = np.nextafter(half, np.float16(-np.inf))
    return half + np.float16(0.0)


def outward(x):
    half, x = nearest(x), np.float32(x)
    if abs(x) < np.float32(2.0**-14) and abs(np.float32(half)) < abs(x):
        half = np.nextafter(half, np.float16(np.inf) if x > 0 else np.float16(-np.inf))
    return half
