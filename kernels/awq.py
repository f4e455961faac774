"""Columns that matter are made larger before rounding, and their inputs smaller: AWQ's scales.

With h = E[x_j^2] and a strength alpha,

    s = h^(alpha / 2) / sqrt(max * min of these),   W diag(s) is quantized with importances h / s^2

and the layer gets its inputs divided by s: where that cannot be folded into the layer before, s is
stored, and decoded columns are divided by it. alpha is the one whose error under h, that is
sum_j h_j |w_j - v_j / s_j|^2, is least.

s has 11 significant bits, so that the last bit of a power does not matter; inputs that never were
there get the smallest s of the others.

Source: Lin et al., AWQ: activation-aware weight quantization, 2023 (there by mean |x_j|).
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.blocks import over_rows

ALPHAS = (0.0, 0.15, 0.25, 0.35, 0.5, 0.65)
DIGITS = 11

Loss = Callable[[NDArray[np.float32], NDArray[np.float32]], float]


def awq_scale(importance: NDArray[np.float32], alpha: float) -> NDArray[np.float32]:
    """s for one strength, float32 (cols,), above 0; ones for alpha 0 or where no input was there.

    importance   h, float32 (cols,), finite and not negative
    """
    h = importance.astype(np.float64)
    if alpha == 0.0 or not (h > 0).any():
        return np.ones(h.size, np.float32)
    h = np.maximum(h, h[h > 0].min())
    powers = np.exp2(0.5 * alpha * (np.log2(h) - 0.5 * (np.log2(h.max()) + np.log2(h.min()))))
    fraction, exponent = np.frexp(powers)
    rounded = np.rint(np.ldexp(fraction, DIGITS))
    scale: NDArray[np.float32] = np.ldexp(rounded, exponent - DIGITS).astype(np.float32)
    return scale


def scaled_importance(
    importance: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """h / s^2, the importances of the columns of W diag(s), float32 (cols,)."""
    s = scale.astype(np.float64)
    return (importance.astype(np.float64) / (s * s)).astype(np.float32)


def divided_moments(
    moments: NDArray[np.float32], scale: NDArray[np.float32]
) -> NDArray[np.float32]:
    """H of inputs divided by s: H_jk / (s_j s_k), a new array of the same form, see factor.checked.

    moments   float32 (n, n), or (blocks, B, B) with the last one filled up
    scale     s, float32 (cols,), above 0
    """
    size = moments.shape[-1]
    parts = moments.reshape(-1, size, size)
    out = np.empty_like(parts)
    filled = np.ones(len(parts) * size, np.float32)
    filled[: scale.size] = scale
    for number, s in enumerate(filled.reshape(-1, size)):
        np.divide(parts[number], s, out=out[number])
        out[number] /= s[:, None]
    return out.reshape(moments.shape)


@kernel
def _scale_rows(
    w: NDArray[np.float32], s: NDArray[np.float32], divide: bool, out: NDArray[np.float32]
) -> None:
    for r in range(w.shape[0]):
        x, y = w[r], out[r]
        if divide:
            for c in range(s.size):
                y[c] = x[c] / s[c]
        else:
            for c in range(s.size):
                y[c] = x[c] * s[c]


def scale_columns(
    w: NDArray[np.float32],
    scale: NDArray[np.float32],
    *,
    divide: bool = False,
    threads: int = 1,
) -> NDArray[np.float32]:
    """W diag(s), or what undoes it; float32 (rows, cols), a new array, every number rounded once."""
    out = np.empty_like(w)

    def work(part: slice) -> int:
        _scale_rows(w[part], scale, divide, out[part])
        return -1

    over_rows(work, w.shape[0], w.shape[1], threads)
    return out


def awq_losses(
    w: NDArray[np.float32],
    importance: NDArray[np.float32],
    loss: Loss,
    alphas: tuple[float, ...] = ALPHAS,
    threads: int = 1,
) -> NDArray[np.float64]:
    """The error of a tile of rows for every strength, float64 (alphas,); add those of disjoint rows.

    w     float32 (rows, cols), finite
    loss  quantizes scaled weights with given importances and tells the weighted squared error, as
          lambda x, h: quantize(x, dtype="F32", ..., weights=h).weighted.sum_e2
    """
    found = np.empty(len(alphas))
    for k, alpha in enumerate(alphas):
        s = awq_scale(importance, alpha)
        scaled = scale_columns(w, s, threads=threads)
        found[k] = loss(scaled, scaled_importance(importance, s))
    return found


def awq_scales(
    tiles: Iterable[NDArray[np.float32]],
    importance: NDArray[np.float32],
    loss: Loss,
    alphas: tuple[float, ...] = ALPHAS,
    threads: int = 1,
) -> tuple[float, NDArray[np.float32]]:
    """The strength of least error over all tiles, the first if there are several, and its s.

    Arguments as awq_losses; tiles are taken one after the other.
    """
    total = np.zeros(len(alphas))
    for tile in tiles:
        total += awq_losses(tile, importance, loss, alphas, threads)
    best = alphas[int(np.argmin(total))]
    return best, awq_scale(importance, best)
