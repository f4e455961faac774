"""Sums in which every weight counts by the importance of its column.

The importance h of a column is the second moment of that input of the layer, E[x^2]: when inputs
are uncorrelated, sum h e^2 is the squared error of the layer's output. Importances are finite and
not negative; a group whose importances are all zero keeps the scale of min-max.

Products and sums are float64, weight after weight: slower than lanes, and the same everywhere.

Source: LeCun, Denker & Solla, Optimal brain damage, 1990 (a diagonal of second derivatives).
"""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, Real, inlined
from kernels.fidelity import COLUMNS, E2, MAX, Q2, W2, WQ
from kernels.vectors import ROUND

Rule: TypeAlias = tuple[np.float32, np.float32, np.float32, np.float32, np.float32, np.float32]


@inlined
def weighted_moments(
    image: NDArray[np.float32],
    importance: NDArray[np.float32],
    start: Integer,
    stop: Integer,
    slope: np.float32,
    offset: Real,
    top: Integer,
) -> tuple[np.float64, np.float64, np.float64]:
    """Sums of h u, h u^2 and h image u over [start:stop]; see lsq.moments."""
    su, suu, swu = np.float64(0), np.float64(0), np.float64(0)
    for i in range(np.uintp(start), np.uintp(stop)):
        t = np.float32(np.float32(image[i] * slope) + np.float32(offset))
        u = np.float64(np.int32(min(max(t, np.float32(0.0)), np.float32(top))))
        hu = np.float64(importance[i]) * u
        su += hu
        suu += hu * u
        swu += hu * np.float64(image[i])
    return su, suu, swu


@inlined
def weighted_total(
    image: NDArray[np.float32], importance: NDArray[np.float32], start: Integer, stop: Integer
) -> tuple[np.float64, np.float64]:
    """Sums of h and h image over [start:stop]."""
    total, product = np.float64(0), np.float64(0)
    for i in range(np.uintp(start), np.uintp(stop)):
        total += np.float64(importance[i])
        product += np.float64(importance[i]) * np.float64(image[i])
    return total, product


@inlined
def weighted_sums(
    w: NDArray[np.float32],
    importance: NDArray[np.float32],
    start: Integer,
    stop: Integer,
    rule: Rule,
    sums: NDArray[np.float64],
) -> None:
    """Add to sums (COLUMNS,) what w[start:stop] gives if encoded by rule (see encode.rule1).

    The columns are those of fidelity, every product times h; the largest error is without h.
    """
    inverse, low, offset, top, scale, origin = rule
    for i in range(np.uintp(start), np.uintp(stop)):
        t = np.float32(np.float32(np.float32(w[i] - low) * inverse) + offset)
        u = np.float32(min(max(t, np.float32(ROUND)), top) - np.float32(ROUND))
        v = np.float64(np.float32(np.float32(scale * u) + origin))
        x, h = np.float64(w[i]), np.float64(importance[i])
        e = x - v
        sums[W2] += h * (x * x)
        sums[E2] += h * (e * e)
        sums[WQ] += h * (x * v)
        sums[Q2] += h * (v * v)
        sums[MAX] = max(sums[MAX], abs(e))


@inlined
def weighted_error(
    w: NDArray[np.float32],
    importance: NDArray[np.float32],
    start: Integer,
    stop: Integer,
    rule: Rule,
) -> np.float64:
    """Sum of h e^2 if w[start:stop] were encoded by rule."""
    inverse, low, offset, top, scale, origin = rule
    total = np.float64(0.0)
    for i in range(np.uintp(start), np.uintp(stop)):
        t = np.float32(np.float32(np.float32(w[i] - low) * inverse) + offset)
        u = np.float32(min(max(t, np.float32(ROUND)), top) - np.float32(ROUND))
        e = np.float64(w[i]) - np.float64(np.float32(np.float32(scale * u) + origin))
        total += np.float64(importance[i]) * (e * e)
    return total


@inlined
def weighted_measure(
    w: NDArray[np.float32],
    importance: NDArray[np.float32],
    v: NDArray[np.float32],
    sums: NDArray[np.float64],
) -> None:
    """Write to sums (COLUMNS,) what weighted_sums gives for weights w and decoded values v."""
    for c in range(COLUMNS):
        sums[c] = 0.0
    for i in range(w.size):
        x, y, h = np.float64(w[i]), np.float64(v[i]), np.float64(importance[i])
        e = x - y
        sums[W2] += h * (x * x)
        sums[E2] += h * (e * e)
        sums[WQ] += h * (x * y)
        sums[Q2] += h * (y * y)
        sums[MAX] = max(sums[MAX], abs(e))
