"""Half-quadratic fit: the range of a group as it is, its zero point moved until few errors are large.

With t the weights in steps of s = (max w - min w) / (2^bits - 1) and z the zero point in steps, for at
most ITERATIONS times:

    q = clip(floor(t + z + 1/2), 0, 2^bits - 1),   e = t - (q - z)
    z = mean(q - t + shrink(e)),   shrink(e) = sign(e) max(|e| - |e|^(p - 1) / beta, 0)

shrink is of errors in units of the weights, not of steps; p = 0.7, beta = 10, 10.1, ... A group ends
when its zero point stays. Every error up to beta^(-1 / (2 - p)) = 0.17 shrinks to nothing, so
that for weights as models have them no power is ever taken: z = mean(q) - mean(t).

The result is stored as every other: scale s and minimum -s z as halves, to which codes are rounded
again. Constant groups, and those of a range that halves cannot resolve, keep what minmax gives them:
in units of a step their zero point would be infinite.

Source: Badri & Shaji, Half-quadratic quantization of large machine learning models, 2023. The
published code also ends when the mean error of the whole tensor no longer falls; here each group goes
on for itself, so that the cut of a tensor into tiles does not matter. Powers come from the C library: of weights above 0.17, the last bit of a
zero point may differ between two of them.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, uncounted
from kernels.half import half_nearest1
from kernels.lanes import folded
from kernels.lsq import CHUNK, TINY
from kernels.vectors import (
    F32,
    F32T,
    I32T,
    TURN,
    arrays,
    at,
    each_step,
    larger,
    smaller,
    splat,
    variable,
)

ITERATIONS = 20
POWER = 0.7
BETA, GROWTH = 10.0, 1.01

# Rows of the scratch of a row, float64 (STATES, groups): middle of the group and steps per unit, sum
# of its weights in steps from the middle, code of the middle (not rounded), whether it still moves.
CENTRE, GAIN, TOTAL, SHIFT, MOVES = range(5)
STATES = 5

types: Any = numba_types


def _residues(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    (steps,) = arrays(context, builder, signature, args, 1)
    start, stop = args[1:3]
    shift, top = (splat(builder, value, F32T) for value in args[3:5])
    half, nought = ir.Constant(F32T, [0.5] * TURN), F32T(None)
    absolute = builder.module.declare_intrinsic(
        f"llvm.fabs.v{TURN}f32", fnty=ir.FunctionType(F32T, [F32T])
    )
    codes, largest = variable(builder, nought), variable(builder, nought)

    def body(i: Any, keep: Any) -> None:
        t = builder.fadd(builder.load(at(builder, steps.data, i, F32T), align=4), shift)
        u = smaller(builder, larger(builder, builder.fadd(t, half), nought), top)
        q = builder.sitofp(builder.fptosi(u, I32T), F32T)
        e = builder.call(absolute, [builder.fsub(t, q)])
        if keep is not None:
            q, e = keep(q), keep(e)
        builder.store(builder.fadd(builder.load(codes), q), codes)
        builder.store(larger(builder, e, builder.load(largest)), largest)

    each_step(builder, start, stop, body, TURN)
    most = builder.module.declare_intrinsic(
        f"llvm.vector.reduce.fmax.v{TURN}f32", fnty=ir.FunctionType(F32, [F32T])
    )
    results = [folded(builder, builder.load(codes)), builder.call(most, [builder.load(largest)])]
    return context.make_tuple(builder, signature.return_type, results)


def _residues_type(typing: Any, steps: Any, start: Any, stop: Any, shift: Any, top: Any) -> Any:
    floats = (types.float32,) * 2
    return types.UniTuple(types.float32, 2)(steps, types.intp, types.intp, *floats), _residues


# residues_lanes(t, start, stop, z, top): sum of q, exact, and the largest |e|, with
# q = clip(floor(t + z + 1/2), 0, top) and e = t + z - q, for at most CHUNK finite t
residues_lanes = cast("Callable[..., tuple[np.float32, np.float32]]", intrinsic(_residues_type))


@uncounted
def shrunk_sum(
    steps: NDArray[np.float32],
    start: Integer,
    stop: Integer,
    shift: np.float32,
    top: np.float32,
    step: np.float64,
    beta: np.float64,
) -> np.float64:
    """Sum of shrink(e) over [start:stop], in steps of the given size."""
    total = np.float64(0.0)
    for i in range(np.uintp(start), np.uintp(stop)):
        t = np.float32(steps[i] + shift)
        q = np.float32(np.int32(min(max(np.float32(t + np.float32(0.5)), np.float32(0.0)), top)))
        e = np.float64(np.float32(t - q)) * step
        size = abs(e)
        if size > 0.0:
            kept = max(size - size ** (POWER - 1.0) / beta, 0.0) / step
            total += kept if e > 0.0 else -kept
    return total


@inlined
def _frame_row(
    w: NDArray[np.float32],
    group: int,
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    top: int,
    steps: NDArray[np.float32],
    states: NDArray[np.float64],
) -> None:
    """Write the weights in steps, around the middle of their group, and where each group starts."""
    for g in range(lo.size):
        low, high = np.float64(lo[g]), np.float64(hi[g])
        wide = high - low >= TINY
        centre, gain = np.float32((low + high) * 0.5), np.float32(top / (high - low))
        states[CENTRE, g], states[GAIN, g] = centre, gain
        states[SHIFT, g] = np.float64(np.float32(0.5 * top))
        states[MOVES, g] = 1.0 if wide else 0.0
        total = np.float64(0.0)
        if wide:
            x = w[np.uintp(g * group) : np.uintp(min((g + 1) * group, w.size))]
            t = steps[np.uintp(g * group) : np.uintp(min((g + 1) * group, w.size))]
            for i in range(x.size):
                t[i] = np.float32(np.float32(x[i] - centre) * gain)
            for i in range(x.size):
                total += np.float64(t[i])
        states[TOTAL, g] = total


@inlined
def _move(
    steps: NDArray[np.float32],
    group: int,
    g: int,
    top: int,
    beta: float,
    state: NDArray[np.float64],
) -> None:
    """One iteration of one group."""
    start, stop = g * group, min((g + 1) * group, steps.size)
    shift, most = np.float32(state[SHIFT, g]), np.float32(top)
    codes, largest = np.float64(0.0), np.float32(0.0)
    for first in range(start, stop, CHUNK):
        part, size = residues_lanes(steps, first, min(first + CHUNK, stop), shift, most)
        codes, largest = codes + np.float64(part), max(largest, size)
    step, kept = 1.0 / state[GAIN, g], np.float64(0.0)
    if np.float64(largest) * step > 0.1:  # below beta^(-1 / (2 - p)) for every beta
        kept = shrunk_sum(steps, start, stop, shift, most, step, np.float64(beta))
    moved = (codes - state[TOTAL, g] + kept) / (stop - start)
    state[MOVES, g] = np.float64(moved != state[SHIFT, g])
    state[SHIFT, g] = moved


@uncounted
def settle_row(
    w: NDArray[np.float32],
    group: int,
    lo: NDArray[np.float32],
    hi: NDArray[np.float32],
    bits: int,
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    steps: NDArray[np.float32],
    states: NDArray[np.float64],
) -> None:
    """Replace scales and mins (groups,), as written by minmax.params_row, by the fit's.

    w       float32 (cols,), finite, with room, see widen.padded; steps the same, scratch
    states  float64 (STATES, groups), scratch
    """
    top = (1 << bits) - 1
    _frame_row(w, group, lo, hi, top, steps, states)
    beta = BETA
    for _ in range(ITERATIONS):
        for g in range(lo.size):
            if states[MOVES, g] != 0.0:
                _move(steps, group, g, top, beta, states)
        beta *= GROWTH
    for g in range(lo.size):
        if np.float64(hi[g]) - np.float64(lo[g]) >= TINY:
            step = 1.0 / states[GAIN, g]
            scales[g] = half_nearest1(np.float32(step))
            mins[g] = half_nearest1(np.float32(states[CENTRE, g] - states[SHIFT, g] * step))
