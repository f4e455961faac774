"""Least-squares search as published formulae: float64 throughout, no fixed point."""

import numpy as np

from tests.naive import affine, halves, minmax

FACTORS = {
    2: (1.0, 0.88, 0.76, 0.64, 0.52),
    3: (1.0, 0.92, 0.84, 0.76, 0.68),
    4: (1.0, 0.94, 0.88, 0.82, 0.76),
    8: (1.0, 0.98, 0.96, 0.94, 0.92),
}
LONG, LONG_FACTORS = 512, (1.0, 0.85, 0.72, 0.6, 0.5, 0.42, 0.35, 0.3, 0.25, 0.2)


def factors_of(w, bits):
    return FACTORS[bits] if w.size <= LONG else LONG_FACTORS


def fit_asymmetric(w, bits, h):
    top = 2**bits - 1
    lo, hi = w.min(), w.max()
    best, found = np.inf, None
    for factor in factors_of(w, bits):
        step = factor * (hi - lo) / top
        u = np.clip(np.floor((w - (lo + hi) / 2) / step + top / 2 + 0.5), 0, top)
        if u.min() == u.max():
            continue
        design = np.stack([u, np.ones_like(u)], axis=1)
        solution = np.linalg.lstsq(design * np.sqrt(h)[:, None], w * np.sqrt(h), rcond=None)[0]
        error = (h * np.square(w - design @ solution)).sum()
        if error < best:
            best, found = error, (u, solution[1])
    u, low = found
    low = halves.nearest(low)
    return halves.nearest((h * u * (w - float(low))).sum() / (h * np.square(u)).sum()), low


def fit_symmetric(w, bits, h):
    half = 2 ** (bits - 1)
    size = np.abs(w).max()
    best, found = np.inf, 0.0
    steps = [factor * size / half for factor in factors_of(w, bits)]
    for step in (*steps, *(-step for step in steps), size / (half - 1)):
        u = np.clip(np.floor(w / step + 0.5), -half, half - 1)
        if not u.any():
            continue
        scale = (h * u * w).sum() / (h * np.square(u)).sum()
        error = (h * np.square(w - scale * u)).sum()
        if error < best:
            best, found = error, scale
    return halves.nearest(found), np.float16(0.0)


def quantize(w, bits, group_size, is_symmetric, importance=None):
    """Codes (rows, cols), scales and mins (rows, groups); never worse than min-max."""
    importance = np.ones(w.shape[1]) if importance is None else importance.astype(np.float64)
    codes, scales, mins = minmax.quantize(w, bits, group_size, is_symmetric)
    fit = fit_symmetric if is_symmetric else fit_asymmetric
    for r in range(w.shape[0]):
        for g, part in enumerate(affine.groups(w.shape[1], group_size)):
            x, h = w[r, part], importance[part]
            scale, low = fit(x.astype(np.float64), bits, h)
            u = affine.encode(x, scale, low, bits, is_symmetric)
            new = affine.decode(u, scale, low, bits, is_symmetric)
            old = affine.decode(codes[r, part], scales[r, g], mins[r, g], bits, is_symmetric)
            x = x.astype(np.float64)
            if (h * np.square(x - new)).sum() < (h * np.square(x - old)).sum():
                codes[r, part], scales[r, g], mins[r, g] = u, scale, low
    return codes, scales, mins
