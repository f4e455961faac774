"""Matrices for the kernel tests: weights as models have them, and weights as enemies send them."""

import numpy as np
from hypothesis import strategies as st

DTYPES = ("BF16", "F16", "F32")
BITS = (2, 3, 4, 8)

dtypes = st.sampled_from(DTYPES)
bits = st.sampled_from(BITS)
group_sizes = st.sampled_from((0, 8, 32, 40, 64))

# Sizes at which something happens: zero, the smallest and largest of each format, ties.
LANDMARKS = (
    *(0.0, 1e-45, 1.2e-38, 3e-8, 5.9e-8, 6e-8, 6.1e-5, 0.1, 0.125, 1 / 3, 0.5, 1.0, 1.0009765, 1.5),
    *(2.5, 7.5, 100.0, 1000.5, 65503.0, 65504.0, 65519.0, 65520.0, 1e5, 1e19, 3.3895e38, 3.4028e38),
)


def narrow(w, dtype):
    """Float32 weights in the stored form of dtype, finite."""
    if dtype == "F32":
        return np.ascontiguousarray(w, np.float32)
    if dtype == "F16":
        return np.clip(w, -65504, 65504).astype(np.float16).view(np.uint16)
    pattern = w.astype(np.float32).view(np.uint32)
    pattern = np.minimum(((pattern & 0x7FFFFFFF) + 0x8000) >> 16, 0x7F7F) | (pattern >> 16) & 0x8000
    return pattern.astype(np.uint16)


def llm_like(rows, cols, seed, dtype="BF16"):
    """Gaussian weights with a gain per input channel and one outlier in a thousand."""
    random = np.random.default_rng(seed)
    w = random.standard_normal((rows, cols)) * 0.02 * random.lognormal(0.0, 0.2, cols)
    w[random.random((rows, cols)) < 0.001] *= 5
    return narrow(w.astype(np.float32), dtype)


@st.composite
def _values(draw, count):
    signed = st.sampled_from(LANDMARKS).flatmap(lambda v: st.sampled_from((v, -v)))
    kind = draw(st.sampled_from(("any", "landmarks", "few", "constant", "offset", "gaussian")))
    if kind == "any":
        element = st.floats(width=32, allow_nan=False, allow_infinity=False)
    elif kind == "landmarks":
        element = signed
    elif kind == "few":
        element = st.sampled_from(draw(st.lists(signed, min_size=1, max_size=3)))
    elif kind == "constant":
        return np.full(count, draw(st.one_of(signed, st.floats(-1e5, 1e5, width=32))), np.float32)
    else:
        random = np.random.default_rng(draw(st.integers(0, 2**32)))
        centre = draw(signed) if kind == "offset" else 0.0
        spread = draw(st.sampled_from((1e-7, 1e-3, 1.0))) * (abs(centre) or 1.0)
        return np.clip(random.normal(centre, spread, count), -3.4e38, 3.4e38).astype(np.float32)
    return np.array(draw(st.lists(element, min_size=count, max_size=count)), np.float32)


@st.composite
def matrices(draw, dtype, max_rows=3, max_cols=90):
    """Finite weights (rows, cols) in the stored form of dtype; each row of its own kind."""
    rows, cols = draw(st.integers(1, max_rows)), draw(st.integers(1, max_cols))
    return narrow(np.stack([draw(_values(cols)) for _ in range(rows)]), dtype)
