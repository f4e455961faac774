"""Encode and decode by the written rule, one group at a time, float32 rounded at every step."""

import math

import numpy as np

F32 = np.float32


def groups(cols, group_size):
    size = group_size or cols
    return [slice(start, min(start + size, cols)) for start in range(0, cols, size)]


def widen(x, dtype):
    if dtype == "BF16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.view(np.float16).astype(np.float32) if dtype == "F16" else x.copy()


def encode(w, scale, low, bits, symmetric):
    """Codes of a group for a float16 scale and minimum."""
    zero = 2 ** (bits - 1) if symmetric else 0
    s, m = F32(scale), F32(0.0 if symmetric else low)
    with np.errstate(over="ignore", under="ignore"):
        inverse = F32(0.0) if s == 0 else F32(1.0) / s
        t = np.rint((w - m) * inverse) + F32(zero)
    return np.clip(t, F32(0), F32(2**bits - 1)).astype(np.uint8)


def decode(u, scale, low, bits, symmetric):
    """Float32 values of the codes of a group."""
    if symmetric:
        return F32(scale) * (u.astype(np.float32) - F32(2 ** (bits - 1)))
    return F32(scale) * u.astype(np.float32) + F32(low)


def decode_rows(codes, scales, mins, bits, group_size):
    out = np.zeros(codes.shape, np.float32)
    for r in range(codes.shape[0]):
        for g, part in enumerate(groups(codes.shape[1], group_size)):
            low = None if mins is None else mins[r, g]
            out[r, part] = decode(codes[r, part], scales[r, g], low, bits, mins is None)
    return out


def error_sums(w, v):
    """sum w^2, sum e^2, sum w v, sum v^2, max |e|, count; exactly rounded float64 sums."""
    w, v = w.astype(np.float64).ravel(), v.astype(np.float64).ravel()
    e = w - v
    sums = [math.fsum(a * b) for a, b in ((w, w), (e, e), (w, v), (v, v))]
    return (*sums, float(np.abs(e).max(initial=0.0)), w.size)
