"""GPTQ as published, one row and one column at a time, float64, by general inverses."""

import numpy as np

from tests.naive import affine, lsq, minmax, superblock


def dense(moments, cols):
    """Second moments of any form as a float64 matrix (cols, cols)."""
    if moments.ndim == 1:
        return np.diag(moments.astype(float))
    if moments.ndim == 2:
        return moments.astype(float)
    out, size = np.zeros((cols, cols)), moments.shape[1]
    for b, block in enumerate(moments):
        part = slice(b * size, min((b + 1) * size, cols))
        count = part.stop - part.start
        out[part, part] = block[:count, :count]
    return out


def damped(h, damp):
    """G of one block."""
    diagonal = np.diag(h)
    dead = diagonal == 0
    g = h / diagonal[~dead].mean() if not dead.all() else h.copy()
    g[dead] = g[:, dead] = 0.0
    g[dead, dead] = 1.0
    return g + damp * np.eye(len(g))


def upper(h, damp):
    """U with G^-1 = U^T U."""
    return np.linalg.cholesky(np.linalg.inv(damped(h, damp))).T


def quantize(w, h, bits, group_size, symmetric, *, block=0, damp=0.01, act_order=False):
    """Codes (rows, cols), scales and mins (rows, groups); h is dense."""
    rows, cols = w.shape
    block = block or cols
    codes = np.zeros((rows, cols), np.uint8)
    parts = affine.groups(cols, group_size)
    scales, mins = (np.zeros((rows, len(parts)), np.float16) for _ in range(2))
    diagonal = np.diag(h)
    current = w.astype(float)

    def fit(g, source):
        part = parts[g]
        found = lsq.quantize(
            source[:, part].astype(np.float32), bits, 0, symmetric, diagonal[part]
        ) if diagonal[part].any() else minmax.quantize(
            source[:, part].astype(np.float32), bits, 0, symmetric
        )  # fmt: skip
        scales[:, g], mins[:, g] = found[1][:, 0], found[2][:, 0]

    if act_order:
        for g in range(len(parts)):
            fit(g, w)
    for start in range(0, cols, block):
        within = np.arange(start, min(start + block, cols))
        if act_order:
            within = start + np.argsort(-diagonal[within], kind="stable")
        u = upper(h[np.ix_(within, within)], damp)
        for i, c in enumerate(within):
            g = next(k for k, part in enumerate(parts) if part.start <= c < part.stop)
            if not act_order and c == parts[g].start:
                fit(g, current)
            for r in range(rows):
                x = current[r, c : c + 1].astype(np.float32)
                code = affine.encode(x, scales[r, g], mins[r, g], bits, symmetric)
                value = affine.decode(code, scales[r, g], mins[r, g], bits, symmetric)
                codes[r, c] = code[0]
                error = (current[r, c] - float(value[0])) / u[i, i]
                current[r, within[i + 1 :]] -= error * u[i, i + 1 :]
    return codes, scales, None if symmetric else mins


def quantize_super(w, h, bits, group_size, scale_bits, *, block=0, damp=0.01, act_order=False):
    """Decoded values (rows, cols) with scales of two levels; arguments as quantize."""
    rows, cols = w.shape
    block = block or cols
    out, current, diagonal = np.zeros((rows, cols)), w.astype(float), np.diag(h)
    grids = {}

    def fit(k, source):
        part = slice(k * superblock.BLOCK, min((k + 1) * superblock.BLOCK, cols))
        importance = diagonal[part] / diagonal[part].max()
        for r in range(rows):
            groups = affine.groups(part.stop - part.start, group_size)
            x = source[r, part]
            found = superblock.fit(
                [superblock.Group(x[g], importance[g], bits, group_size) for g in groups],
                scale_bits,
            )
            for g, a, b in zip(groups, *found[2:], strict=True):
                pair = superblock.steps_of(
                    a, b + 2 ** (scale_bits - 1), found[0], found[1], bits, scale_bits
                )
                for c in range(part.start + g.start, part.start + g.stop):
                    grids[r, c] = pair

    if act_order:
        for k in range(-(-cols // superblock.BLOCK)):
            fit(k, w.astype(float))
    for start in range(0, cols, block):
        within = np.arange(start, min(start + block, cols))
        if act_order:
            within = start + np.argsort(-diagonal[within], kind="stable")
        u = upper(h[np.ix_(within, within)], damp)
        for i, c in enumerate(within):
            if not act_order and c % superblock.BLOCK == 0:
                fit(c // superblock.BLOCK, current)
            for r in range(rows):
                s, m = grids[r, c]
                x = current[r, c : c + 1].astype(np.float32)
                out[r, c] = superblock.decode(superblock.encode(x, s, m, bits), s, m, bits)[0]
                error = (current[r, c] - out[r, c]) / u[i, i]
                current[r, within[i + 1 :]] -= error * u[i, i + 1 :]
    return out


def output_error(w, v, h):
    """tr(D H D^T) / tr(W H W^T)."""
    w, d = w.astype(float), w.astype(float) - v
    return np.einsum("ij,jk,ik->", d, h, d) / np.einsum("ij,jk,ik->", w, h, w)
