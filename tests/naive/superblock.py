"""Super-blocks by the written rules: levels as a table, float64 throughout the fit."""

import numpy as np

from kernels.superfit import ENDS, PROBES
from tests.naive import affine, halves

F32 = np.float32
BLOCK = 256
LEVELS = {
    2: (-7, -2, 2, 7),
    3: (-45, -29, -16, -5, 5, 16, 29, 45),
    4: (-127, -104, -84, -65, -49, -34, -20, -7, 7, 20, 34, 49, 65, 84, 104, 127),
}


def nearest_codes(t, bits):
    """Codes of the levels nearest to t, ties to the larger."""
    levels = np.array(LEVELS[bits], t.dtype)
    return (t[..., None] >= (levels[1:] + levels[:-1]) / 2).sum(-1)


def grains(bits, scale_bits):
    return 2.0 ** -(scale_bits + {2: 3, 3: 6, 4: 7}[bits]), 2.0 ** -(scale_bits - 1)


def steps_of(scale_code, centre_code, d, dm, bits, scale_bits):
    """s and c of a group in float32, exact; the centre code as stored."""
    scale_grain, centre_grain = grains(bits, scale_bits)
    s = float(d) * scale_grain * int(scale_code)
    c = float(dm) * centre_grain * (int(centre_code) - 2 ** (scale_bits - 1))
    assert (F32(s), F32(c)) == (s, c)
    return F32(s), F32(c)


def encode(w, s, c, bits):
    with np.errstate(over="ignore"):
        t = (w - c) * (F32(0) if s == 0 else F32(1) / s)
    return nearest_codes(t, bits).astype(np.uint8)


def decode(u, s, c, bits):
    return s * np.array(LEVELS[bits], np.float32)[u] + c


def over_groups(cols, group_size):
    """(group, super-block, columns) of a row."""
    return [
        (g, part.start // BLOCK, part) for g, part in enumerate(affine.groups(cols, group_size))
    ]


def decode_rows(u, scale_codes, centre_codes, d, dm, bits, group_size, scale_bits):
    out = np.zeros(u.shape, np.float32)
    for r in range(u.shape[0]):
        for g, k, part in over_groups(u.shape[1], group_size):
            s, c = steps_of(
                scale_codes[r, g], centre_codes[r, g], d[r, k], dm[r, k], bits, scale_bits
            )
            out[r, part] = decode(u[r, part], s, c, bits)
    return out


class Group:
    """Weights x of one group with importances h, and what rounding them with s and c leaves."""

    def __init__(self, x, h, bits, items):
        self.x, self.h = x.astype(np.float64), h.astype(np.float64)
        self.bits, self.items = bits, items

    def look(self, s, c):
        """sum h L, sum h L^2, sum h e, sum h e L, sum h e^2."""
        t = (self.x - c) / s if s else 0 * self.x
        level = np.array(LEVELS[self.bits], float)[nearest_codes(t, self.bits)]
        e, h = self.x - c - s * level, self.h
        return tuple(a.sum() for a in (h * level, h * level**2, h * e, h * e * level, h * e * e))

    def refit(self, s, c):
        """Error, s and c of the least-squares line through the codes."""
        sl, sll, se, sel, see = self.look(s, c)
        determinant = self.h.sum() * sll - sl * sl
        if determinant <= 2.0**-16 * self.h.sum() * sll:
            return see, s, c
        ds = (self.h.sum() * sel - sl * se) / determinant
        dc = (sll * se - sl * sel) / determinant
        return see - ds * sel - dc * se, s + ds, c + dc

    def search(self):
        mid, half = (self.x.max() + self.x.min()) / 2, (self.x.max() - self.x.min()) / 2
        top = LEVELS[self.bits][-1]
        found = [
            self.refit(half * (low + high) / 2 / top, mid + half * (high - low) / 2)
            for low, high in ENDS[self.bits, self.items]
        ]
        return min((f for f in found if f[1] >= 0), key=lambda f: f[0])[1:]

    def probe(self, d, dm, scale_code, centre_code, probes, scale_bits):
        """Best (error, S, M, sums), M centred."""
        top, limit = 2**scale_bits - 1, 2 ** (scale_bits - 1)
        best = (np.inf, 0, centre_code, None)
        for k, shift in enumerate(PROBES[:probes]):
            tried = min(max(scale_code + shift, 0), top)
            if k != 1:
                moved = best[2]
            sums = self.look(d * tried, dm * moved)
            if sums[4] < best[0]:
                best = (sums[4], tried, moved, sums)
            step = np.rint(sums[2] / self.h.sum() / dm) if dm else 0
            moved = max(min(moved + step, limit - 1), -limit)
        return best


def fit(groups, scale_bits):
    """d and dm, float16, and lists of S and M (centred) for the groups of a super-block."""
    top, limit = 2**scale_bits - 1, 2 ** (scale_bits - 1)
    scales, centres = np.array([group.search() for group in groups]).T
    low, high = min(centres.min(), 0), max(centres.max(), 0)
    fine, coarse = grains(groups[0].bits, scale_bits)
    d = halves.outward(F32(scales.max() / top / fine))
    dm = halves.outward(F32((-low if -low > high else -high) / limit / coarse))
    step, mid_step = float(d) * fine, float(dm) * coarse
    first = np.clip(np.floor(scales / step + 0.5), 0, top) if d else 0 * scales
    mids = np.clip(np.floor(centres / mid_step + 0.5), -limit, limit - 1) if dm else 0 * centres
    best = None
    every = len(PROBES)
    for probes in (1, every, every) if scale_bits == 4 else (1, 1):
        found = [
            group.probe(float(d) * fine, float(dm) * coarse, a, b, probes, scale_bits)
            for group, a, b in zip(groups, first, mids, strict=True)
        ]
        error = sum(f[0] for f in found)
        if best is None or error < best[0]:
            best = (error, d, dm, found)
        first, mids = (np.array([f[k] for f in found]) for k in (1, 2))
        sl, sll, se, sel, _ = np.array([f[3] for f in found]).T
        total = np.array([group.h.sum() for group in groups])
        normal = np.array(
            [[first**2 @ sll, first * mids @ sl], [first * mids @ sl, mids**2 @ total]]
        )
        if np.linalg.det(normal) > 1e-9 * normal[0, 0] * normal[1, 1]:
            change = np.linalg.solve(normal, [first @ sel, mids @ se])
            d = halves.nearest(float(d) + change[0] / fine)
            dm = halves.nearest(float(dm) + change[1] / coarse)
    return best[1], best[2], [f[1] for f in best[3]], [f[2] for f in best[3]]


def quantize(w, bits, group_size, scale_bits, importance=None):
    """Decoded values (rows, cols) of the fit."""
    out = np.zeros(w.shape, np.float32)
    h = np.ones(w.shape[1]) if importance is None else importance
    for r in range(w.shape[0]):
        for block in affine.groups(w.shape[1], BLOCK):
            x, weights = w[r, block], h[block] / h[block].max()
            parts = affine.groups(x.size, group_size)
            groups = [Group(x[part], weights[part], bits, group_size) for part in parts]
            d, dm, scale_codes, centre_codes = fit(groups, scale_bits)
            for part, a, b in zip(parts, scale_codes, centre_codes, strict=True):
                s, c = steps_of(a, b + 2 ** (scale_bits - 1), d, dm, bits, scale_bits)
                out[r, block][part] = decode(encode(x[part], s, c, bits), s, c, bits)
    return out
