"""Min-max quantization by the written rule."""

import numpy as np

from tests.naive import affine, halves


def asymmetric(lo, hi, bits):
    if lo == hi:
        low = halves.nearest(lo)
        return halves.nearest(lo - np.float32(low)), low
    low = halves.down(lo)
    return halves.outward((float(hi) - float(low)) / (2**bits - 1)), low


def symmetric(lo, hi, bits):
    half = 2 ** (bits - 1)
    lo, hi = float(lo), float(hi)
    if lo == hi:
        counts = [*range(1, half), -half]
        scales = [halves.nearest(lo / n) for n in counts]
        errors = [abs(float(s) * n - lo) for s, n in zip(scales, counts, strict=True)]
        return scales[errors.index(min(errors))] if min(errors) < np.inf else halves.nearest(0)
    return halves.outward(-(hi if hi > -lo else lo) / half)


def params(lo, hi, bits, is_symmetric):
    if is_symmetric:
        return symmetric(lo, hi, bits), np.float16(0.0)
    return asymmetric(lo, hi, bits)


def quantize(w, bits, group_size, is_symmetric):
    """Codes (rows, cols), scales and mins (rows, groups)."""
    parts = affine.groups(w.shape[1], group_size)
    codes = np.zeros(w.shape, np.uint8)
    scales = np.zeros((w.shape[0], len(parts)), np.float16)
    mins = np.zeros_like(scales)
    for r in range(w.shape[0]):
        for g, part in enumerate(parts):
            lo, hi = w[r, part].min() + np.float32(0), w[r, part].max() + np.float32(0)
            scales[r, g], mins[r, g] = params(lo, hi, bits, is_symmetric)
            codes[r, part] = affine.encode(w[r, part], scales[r, g], mins[r, g], bits, is_symmetric)
    return codes, scales, mins
