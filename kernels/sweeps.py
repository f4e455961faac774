"""Eight groups at a time, one in each lane: sums over a group need no step across lanes.

Weights are transposed: item i of the group in lane j is element base + 8 i + j. Sums run over even and
over odd i in order, in float32, so they are the same everywhere. A group has at most 32 weights, which float32
sums of values around 1 serve to a millionth.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.curves import LANES, WIDE, Levels, inverse_of
from kernels.vectors import (
    F32,
    F32S,
    F32T,
    NOUGHTS,
    ROUND,
    STEP,
    TURN,
    arrays,
    at,
    fused,
    larger,
    parts,
    repeated,
    smaller,
    splat,
    variable,
)

# Rows of the state, float32 (ROWS, LANES), one column for each group.
MID, HALF = 0, 1  # centre and half the width of the range
TOTAL = 2  # sum of h; 1 where there is no group
S, C = 3, 4  # scale and centre as real numbers
BEST = 5  # smallest squared error so far
SCALE, CENTRE = 6, 7  # the codes that gave it, centred
TRIED, MOVED = 8, 9  # the codes on trial
SUMS = 10  # five rows: sums of h L, h L^2, h e, h e L, h e^2
ROWS = 15

types: Any = numba_types


class _State:
    """Vectors of the state for the eight groups from a column on."""

    def __init__(self, builder: Any, state: Any, column: Any) -> None:
        self._builder, self._data, self._column = builder, state.data, column

    def _place(self, row: int) -> Any:
        index = self._builder.add(self._column, self._column.type(row * LANES))
        return at(self._builder, self._data, index, F32S)

    def load(self, row: int) -> Any:
        return self._builder.load(self._place(row), align=4)

    def store(self, row: int, value: Any) -> None:
        self._builder.store(value, self._place(row), align=4)

    def keep(self, better: Any, rows: dict[int, Any]) -> None:
        """Replace rows in the lanes that are better."""
        for row, value in rows.items():
            self.store(row, self._builder.select(better, value, self.load(row)))


def _sums(
    builder: Any, x: Any, h: Any, base: Any, count: Any, levels: Levels, scale: Any, centre: Any
) -> list[Any]:
    """Sums of h L, h L^2, h e, h e L and h e^2, e = x - c - s L, L the level near (x - c) / s."""
    inverse = repeated(builder, inverse_of(builder, scale), WIDE)
    negative = repeated(builder, builder.fneg(scale), WIDE)
    centre = repeated(builder, centre, WIDE)
    wide = ir.VectorType(F32, STEP * WIDE)
    totals = [variable(builder, F32T(None)) for _ in range(ROWS - SUMS)]
    turns = builder.sdiv(count, count.type(WIDE))

    def sweep(level_of: Callable[[Any], Any]) -> None:
        with cgutils.for_range(builder, turns) as loop:
            i = builder.add(base, builder.mul(loop.index, base.type(STEP * WIDE)))
            value = builder.load(at(builder, x.data, i, wide), align=4)
            weight = builder.load(at(builder, h.data, i, wide), align=4)
            rest = builder.fsub(value, centre)
            level = level_of(builder.fmul(rest, inverse))
            e = fused(builder, negative, level, rest)
            hl, he = builder.fmul(weight, level), builder.fmul(weight, e)
            split = (parts(builder, vector, TURN) for vector in (level, e, hl, he))
            for level, e, hl, he in zip(*split, strict=True):
                for k, term in ((0, hl), (2, he)):
                    builder.store(builder.fadd(builder.load(totals[k]), term), totals[k])
                for k, a, b in ((1, hl, level), (3, he, level), (4, he, e)):
                    builder.store(fused(builder, a, b, builder.load(totals[k])), totals[k])

    with builder.if_else(levels.four()) as (four, more):
        with four:
            sweep(levels.of_two_bits)
        with more:
            sweep(lambda t: levels.level(levels.near(t)))
    both = (parts(builder, builder.load(total), STEP) for total in totals)
    return [builder.fadd(even, odd) for even, odd in both]


def _refit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x, h, state_array = arrays(context, builder, signature, args, 3)
    base, count, column = args[3:6]
    levels = Levels(builder, args[8], WIDE)
    state = _State(builder, state_array, column)
    fadd, fsub, fmul, fdiv = builder.fadd, builder.fsub, builder.fmul, builder.fdiv
    width, shift = (splat(builder, value, F32S) for value in args[6:8])
    half = state.load(HALF)
    scale, centre = fmul(half, width), fadd(state.load(MID), fmul(half, shift))
    sl, sll, se, sel, see = _sums(builder, x, h, base, count, levels, scale, centre)
    total = state.load(TOTAL)
    product = fmul(total, sll)
    determinant = fsub(product, fmul(sl, sl))
    one, small = (ir.Constant(F32S, [number] * STEP) for number in (1.0, 2.0**-16))
    regular = builder.fcmp_ordered(">", determinant, fmul(product, small))
    determinant = builder.select(regular, determinant, one)
    ds = fdiv(fsub(fmul(total, sel), fmul(sl, se)), determinant)
    dc = fdiv(fsub(fmul(sll, se), fmul(sl, sel)), determinant)
    ds, dc = (builder.select(regular, value, NOUGHTS) for value in (ds, dc))
    error = fsub(fsub(see, fmul(ds, sel)), fmul(dc, se))
    scale = fadd(scale, ds)
    better = builder.and_(
        builder.fcmp_ordered("<", error, state.load(BEST)),
        builder.fcmp_ordered(">=", scale, NOUGHTS),
    )
    state.keep(better, {BEST: error, S: scale, C: fadd(centre, dc), SUMS + 1: sll})
    return context.get_dummy_value()


def _probe(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x, h, state_array = arrays(context, builder, signature, args, 3)
    base, count, column = args[3:6]
    levels = Levels(builder, args[10], WIDE)
    state = _State(builder, state_array, column)
    d, dm, per_dm, limit = (splat(builder, value, F32S) for value in args[6:10])
    tried, moved = state.load(TRIED), state.load(MOVED)
    scale, centre = builder.fmul(d, tried), builder.fmul(dm, moved)
    sums = _sums(builder, x, h, base, count, levels, scale, centre)
    better = builder.fcmp_ordered("<", sums[4], state.load(BEST))
    kept = {SUMS + k: value for k, value in enumerate(sums)}
    state.keep(better, {BEST: sums[4], SCALE: tried, CENTRE: moved, **kept})
    step = builder.fmul(builder.fdiv(sums[2], state.load(TOTAL)), per_dm)
    shift = ir.Constant(F32S, [ROUND] * STEP)
    moved = builder.fadd(moved, builder.fsub(builder.fadd(step, shift), shift))
    one = ir.Constant(F32S, [1.0] * STEP)
    moved = larger(builder, smaller(builder, moved, builder.fsub(limit, one)), builder.fneg(limit))
    state.store(MOVED, moved)
    return context.get_dummy_value()


def _refit_type(
    typing: Any,
    x: Any,
    h: Any,
    state: Any,
    base: Any,
    count: Any,
    column: Any,
    width: Any,
    shift: Any,
    curve: Any,
) -> Any:
    places, floats = (types.intp,) * 3, (types.float32,) * 2
    return types.void(x, h, state, *places, *floats, curve), _refit


def _probe_type(
    typing: Any,
    x: Any,
    h: Any,
    state: Any,
    base: Any,
    count: Any,
    column: Any,
    d: Any,
    dm: Any,
    per_dm: Any,
    limit: Any,
    curve: Any,
) -> Any:
    places, floats = (types.intp,) * 3, (types.float32,) * 4
    return types.void(x, h, state, *places, *floats, curve), _probe


# In both, x and h are float32, transposed weights and importances, of which count items of the
# groups in columns column .. column + 7 are worked on; curve is from levels.curve_for. Sums are
# over the items of a group; e = x - c - s L with L the level near (x - c) / s.
#
# refit(x, h, state, base, count, column, width, shift, curve): round with s = width HALF and c = MID
# + shift HALF; refit s and c to the codes by least squares (see superfit) and keep them in S and C,
# with their error and sum h L^2, if the error is below BEST
refit = cast("Callable[..., None]", intrinsic(_refit_type))

# probe(x, h, state, base, count, column, d, dm, per_dm, limit, curve): round with s = d TRIED and
# c = dm MOVED, keep the codes and all sums if the error is below BEST; move MOVED by the mean error
# (per_dm is 1 / dm, or 0) within -limit .. limit - 1
probe = cast("Callable[..., None]", intrinsic(_probe_type))
