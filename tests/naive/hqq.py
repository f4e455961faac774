"""The half-quadratic fit as published: float64 weights, a scale that multiplies, a zero point of codes."""

import numpy as np

from tests.naive import affine, halves, minmax


def shrink(x, beta, p=0.7):
    size = np.abs(x)
    with np.errstate(divide="ignore"):
        return np.sign(x) * np.maximum(size - np.power(size, p - 1) / beta, 0)


def fit(w, bits, iterations=20):
    """Scale and minimum of a group, float64, before they are stored."""
    top = 2**bits - 1
    scale = top / (w.max() - w.min())
    zero, beta = -w.min() * scale, 10.0
    for _ in range(iterations):
        q = np.clip(np.floor(w * scale + zero + 0.5), 0, top)
        kept = shrink(w - (q - zero) / scale, beta)
        zero = np.mean(q - (w - kept) * scale)
        beta *= 1.01
    return 1 / scale, -zero / scale


def quantize(w, bits, group_size):
    """Codes (rows, cols), scales and mins (rows, groups)."""
    codes, scales, mins = minmax.quantize(w, bits, group_size, False)
    for r in range(w.shape[0]):
        for g, part in enumerate(affine.groups(w.shape[1], group_size)):
            x = w[r, part].astype(np.float64)
            if x.max() - x.min() < 2.0**-25:
                continue
            scales[r, g], mins[r, g] = (halves.nearest(number) for number in fit(x, bits))
            codes[r, part] = affine.encode(w[r, part], scales[r, g], mins[r, g], bits, False)
    return codes, scales, mins
