"""Uneven levels as instructions, and the codes of the nearest ones.

Weights are transposed here as in sweeps: item i of the group in lane j is element base + 8 i + j.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.levels import levels_for
from kernels.vectors import (
    F32,
    F32S,
    F32T,
    I8,
    I8T,
    I32,
    I32T,
    NOUGHTS,
    ROUND,
    STEP,
    TURN,
    arrays,
    at,
    fused,
    larger,
    repeated,
    smaller,
    splat,
)

_SMALL, _LARGE = (float(level) for level in levels_for(2)[2:])
FOUR = _SMALL, _LARGE, (_SMALL + _LARGE) / 2  # sizes of the levels of 2 bits, and what parts them
LANES = 16  # groups in a super-block at most
WIDE = 4  # items in one vector: enough for a processor to work on several at once; divides 16

types: Any = numba_types


class Levels:
    """Codes and levels as instructions; scalars is the tuple that levels.curve_for returns."""

    def __init__(self, builder: Any, scalars: Any, items: int) -> None:
        self._builder = builder
        self._type = ir.VectorType(F32, STEP * items)
        self._integers = ir.VectorType(I32, STEP * items)
        values = [builder.extract_value(scalars, k) for k in range(scalars.type.count)]
        self._last = values[-1]
        self._a0, self._a1, *self._b, self._largest, self._half, self._top = (
            repeated(builder, splat(builder, value, F32S), items) for value in values
        )

    def four(self) -> Any:
        """Whether there are four levels."""
        three = ir.Constant(F32, 3.0)
        return self._builder.fcmp_ordered("==", self._last, three)

    def constant(self, number: float) -> Any:
        return ir.Constant(self._type, [number] * self._type.count)

    def level(self, u: Any) -> Any:
        """L of a code held as float32."""
        builder = self._builder
        two, shift = self.constant(2.0), self.constant(ROUND)
        f = fused(builder, u, two, builder.fneg(self._top))
        slope = fused(builder, builder.fmul(f, f), self._a1, self._a0)
        return builder.fsub(fused(builder, f, slope, shift), shift)

    def near(self, t: Any) -> Any:
        """The code next to t, as float32; by the polynomial."""
        builder = self._builder
        t = larger(builder, t, builder.fneg(self._largest))
        t = smaller(builder, t, self._largest)
        squared = builder.fmul(t, t)
        slope = self._b[2]
        for coefficient in (self._b[1], self._b[0]):
            slope = fused(builder, slope, squared, coefficient)
        u = fused(builder, t, slope, self._half)
        return builder.sitofp(builder.fptosi(u, self._integers), self._type)

    def of_two_bits(self, t: Any) -> Any:
        """The level nearest to t where there are four of them: by its size, with its sign."""
        builder = self._builder
        small, large, between = (self.constant(number) for number in FOUR)
        names = {name: f"llvm.{name}.v{self._type.count}f32" for name in ("fabs", "copysign")}
        absolute = builder.module.declare_intrinsic(
            names["fabs"], fnty=ir.FunctionType(self._type, [self._type])
        )
        signed = builder.module.declare_intrinsic(
            names["copysign"], fnty=ir.FunctionType(self._type, [self._type] * 2)
        )
        far = builder.fcmp_ordered(">=", builder.call(absolute, [t]), between)
        return builder.call(signed, [builder.select(far, large, small), t])

    def nearest(self, t: Any) -> Any:
        """The code of the level nearest to t, ties up, as float32; exact."""
        builder = self._builder
        one, two, nought = (self.constant(number) for number in (1.0, 2.0, 0.0))
        u = self.near(t)
        doubled, level = builder.fmul(t, two), self.level(u)
        above = builder.fadd(level, self.level(builder.fadd(u, one)))
        below = builder.fadd(level, self.level(builder.fsub(u, one)))
        up = builder.select(builder.fcmp_ordered(">=", doubled, above), one, nought)
        down = builder.select(builder.fcmp_ordered("<", doubled, below), one, nought)
        u = builder.fsub(builder.fadd(u, up), down)
        return smaller(builder, larger(builder, u, nought), self._top)


def inverse_of(builder: Any, scale: Any) -> Any:
    """1 / scale, or 0."""
    one = ir.Constant(F32S, [1.0] * STEP)
    isnt = builder.fcmp_unordered("!=", scale, NOUGHTS)
    return builder.select(isnt, builder.fdiv(one, scale), NOUGHTS)


def _settle(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x, numbers, q = arrays(context, builder, signature, args, 3)
    base, count, column = args[3:6]
    levels = Levels(builder, args[6], WIDE)
    places = [builder.add(column, column.type(LANES * k)) for k in range(2)]
    scale, centre = (builder.load(at(builder, numbers.data, i, F32S), align=4) for i in places)
    inverse = repeated(builder, inverse_of(builder, scale), WIDE)
    centre = repeated(builder, centre, WIDE)
    floats, bytes_, words = (ir.VectorType(kind, STEP * WIDE) for kind in (F32, I8, I32))
    with cgutils.for_range(builder, builder.sdiv(count, count.type(WIDE))) as loop:
        i = builder.add(base, builder.mul(loop.index, base.type(STEP * WIDE)))
        value = builder.load(at(builder, x.data, i, floats), align=4)
        u = levels.nearest(builder.fmul(builder.fsub(value, centre), inverse))
        codes = builder.trunc(builder.fptosi(u, words), bytes_)
        builder.store(codes, at(builder, q.data, i, bytes_), align=1)
    return context.get_dummy_value()


def _settle_type(
    typing: Any, x: Any, numbers: Any, q: Any, base: Any, count: Any, column: Any, curve: Any
) -> Any:
    return types.void(x, numbers, q, *(types.intp,) * 3, curve), _settle


# settle(x, numbers, q, base, count, column, curve): codes of the levels nearest to (x - c) (1 / s)
# to q, uint8, in the places of x; s = 0 counts as 1 / s = 0
#   x        float32, finite, count items of the groups in columns column .. column + 7
#   numbers  float32 (2, LANES), s and c of the groups
settle = cast("Callable[..., None]", intrinsic(_settle_type))


def _decode(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    q, out = arrays(context, builder, signature, args, 2)
    start, stop = args[2:4]
    levels = Levels(builder, args[6], TURN // STEP)
    scale, centre = (splat(builder, value, F32T) for value in args[4:6])
    with cgutils.for_range_slice(builder, start, stop, start.type(TURN), inc=True) as (i, _):
        codes = builder.load(at(builder, q.data, i, I8T), align=1)
        level = levels.level(builder.sitofp(builder.zext(codes, I32T), F32T))
        value = builder.fadd(builder.fmul(scale, level), centre)
        builder.store(value, at(builder, out.data, i, F32T), align=4)
    return context.get_dummy_value()


def _decode_type(
    typing: Any, q: Any, out: Any, start: Any, stop: Any, scale: Any, centre: Any, curve: Any
) -> Any:
    floats = (types.float32,) * 2
    return types.void(q, out, types.intp, types.intp, *floats, curve), _decode


# decode_turns(q, out, start, stop, scale, centre, curve): s L + c of codes q[start:stop], uint8, to the
# same places of out, float32, every operation rounded; stop - start is a multiple of TURN
decode_turns = cast("Callable[..., None]", intrinsic(_decode_type))
