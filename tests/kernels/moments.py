"""Second moments for the kernel tests: as layers have them, and as enemies send them."""

import numpy as np
from hypothesis import strategies as st


def correlated(cols, seed, rank=16):
    """Moments of inputs with a few strong directions and uneven channels, float32 (cols, cols)."""
    random = np.random.default_rng(seed)
    count = 3 * cols
    x = random.standard_normal((count, rank)) @ random.standard_normal((rank, cols))
    x = (x + 2 * random.standard_normal((count, cols))) * random.lognormal(0, 1, cols)
    return (x.T @ x / count).astype(np.float32)


def blocks_of(h, size):
    """Blocks on the diagonal of h, the last one filled up with zeros, float32 (blocks, size, size)."""
    cols = len(h)
    out = np.zeros((-(-cols // size), size, size), np.float32)
    for b, start in enumerate(range(0, cols, size)):
        part = h[start : start + size, start : start + size]
        out[b, : len(part), : len(part)] = part
    return out


@st.composite
def hostile(draw, cols):
    """Positive semidefinite moments: of any rank, with dead columns, of any scale."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    rank = draw(st.sampled_from((0, 1, cols // 2, 2 * cols)))
    x = random.standard_normal((rank, cols))
    x *= np.exp2(random.integers(-20, 21, cols) * draw(st.sampled_from((0.0, 0.3, 1.0))))
    x[:, random.random(cols) < draw(st.sampled_from((0.0, 0.3)))] = 0.0
    h = x.T @ x
    size = np.abs(h).max(initial=0.0)
    scale = draw(st.sampled_from((1e-30, 1.0, 1e30)))
    return (h / (size or 1.0) * scale).astype(np.float32)
