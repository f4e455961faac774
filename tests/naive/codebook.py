"""Codebook codes by the written rule, one group at a time."""

import math

import numpy as np

from tests.naive import affine, halves

F32 = np.float32

# As bitsandbytes 0.50 prints it.
NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941),
    *(0.7229568362236023, 1.0),
)  # fmt: skip


def encode(w, scale, levels):
    """Codes of a group for a float16 scale."""
    edges = ((levels[:-1].astype(float) + levels[1:]) / 2).astype(np.float32)
    with np.errstate(over="ignore", under="ignore"):
        t = w * (F32(0.0) if scale == 0 else F32(1.0) / F32(scale))
    return (t[:, None] >= edges[None]).sum(1)


def absmax(w, levels):
    return halves.nearest(np.abs(w).max() / np.abs(levels).max())


def error(w, h, scale, levels):
    v = F32(scale) * levels[encode(w, scale, levels)]
    return math.fsum(h * np.square(w.astype(float) - v))


def search(w, h, levels, ratios, refits):
    """The best scale of a group by the written search."""
    best = absmax(w, levels)
    if not h.any() or not w.any():
        return best
    wide = levels.astype(float)
    size = math.sqrt((h * np.square(w.astype(float))).sum() / h.sum())
    unit = size / math.sqrt(np.mean(wide**2))
    starts = [float(best), *(unit * ratio for ratio in ratios)]
    if not np.array_equal(levels, -levels[::-1]):
        starts += [-unit * ratio for ratio in ratios]
    least = error(w, h, best, levels)
    for start in starts:
        scale = F32(start)
        for _ in range(refits):
            c = wide[encode(w, scale, levels)]
            squares = (h * c * c).sum()
            scale = F32((h * w * c).sum() / squares if squares > 0 else 0.0)
        found = error(w, h, halves.nearest(scale), levels)
        if found < least:
            best, least = halves.nearest(scale), found
    return best


def decode_rows(codes, scales, levels, group_size):
    out = np.zeros(codes.shape, np.float32)
    for r in range(codes.shape[0]):
        for g, part in enumerate(affine.groups(codes.shape[1], group_size)):
            out[r, part] = F32(scales[r, g]) * levels[codes[r, part]]
    return out
