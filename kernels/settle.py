"""Ranges, scales and minima of sixteen groups at a time, as instructions, for nearest.

Ranges are found on the stored patterns, 32 at a time: as signed numbers the largest pattern is the
largest weight, as unsigned ones it is the smallest, unless all weights of a group have one sign, which
is told apart. Extremes of sixteen groups are brought side by side, and what is done once for a group
is done for all of them.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.forms import by_form
from kernels.stored import I16, I16T, PATTERNS, TILE, Stored, every, highest
from kernels.vectors import F32, F32T, I32T, TURN, arrays, at, larger, mixed, splat, variable

COUNT = TURN  # groups settled at a time
# Rows of rules, float32 (RULES, groups): 1 / s, the minimum or 0, -s, and what |e| cannot exceed.
INVERSE, LOW, NEGATIVE, BOUND = range(4)
RULES = 4
LARGEST, SMALLEST_NORMAL = 65504.0, 2.0**-14  # halves
# The largest ratio of minimum to scale for which e is taken from w - m (see encode_span), and of one
# end of a range to the other for which their difference, 11 bits less 11 bits, is exact.
FAR = 2.0**11

types: Any = numba_types


def _pick(builder: Any, name: str, a: Any, b: Any) -> Any:
    kind = ir.FunctionType(a.type, [a.type] * 2)
    function = builder.module.declare_intrinsic(f"llvm.{name}.v{a.type.count}i16", fnty=kind)
    return builder.call(function, [a, b])


class Extremes:
    """The range of a group as its patterns pass."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder
        self._top, self._bottom = (variable(builder, PATTERNS(None)) for _ in range(2))

    def begin(self, first: Any = None) -> None:
        """With the group's first patterns, or with none."""
        nothing = every(PATTERNS, -0x8000), PATTERNS(None)
        top, bottom = nothing if first is None else (first, first)
        self._builder.store(top, self._top)
        self._builder.store(bottom, self._bottom)

    def add(self, value: Any) -> None:
        builder = self._builder
        builder.store(_pick(builder, "smax", builder.load(self._top), value), self._top)
        builder.store(_pick(builder, "umax", builder.load(self._bottom), value), self._bottom)

    def end(self, found: Any, place: Any, resume: Any = None) -> None:
        """Write to found[place] what settle makes the range from; with what is there unless resume is 0."""
        builder = self._builder
        high = builder.load(self._top)
        low = builder.xor(builder.load(self._bottom), every(PATTERNS, -0x8000))
        lower, upper = list(range(TURN)), list(range(TURN, TILE))
        folded = _pick(
            builder,
            "smax",
            mixed(builder, high, low, lower + [TILE + k for k in lower]),
            mixed(builder, high, low, upper + [TILE + k for k in upper]),
        )
        home = at(builder, found, builder.mul(place, place.type(TILE)), PATTERNS)
        builder.store(folded, self._top)
        if resume is not None:
            with builder.if_then(builder.icmp_signed("!=", resume, resume.type(0)), likely=False):
                earlier = builder.load(home, align=2)
                builder.store(_pick(builder, "smax", folded, earlier), self._top)
        builder.store(builder.load(self._top), home, align=2)


def _extremes(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x, found = arrays(context, builder, signature, args, 2)
    start, turns, place = args[2:]
    extremes = Extremes(builder)
    extremes.begin(builder.load(at(builder, x.data, start, PATTERNS), align=2))
    with cgutils.for_range(builder, builder.sub(turns, turns.type(1))) as loop:
        step = builder.mul(builder.add(loop.index, turns.type(1)), start.type(TILE))
        i = builder.add(start, step)
        extremes.add(builder.load(at(builder, x.data, i, PATTERNS), align=2))
    extremes.end(found.data, place)
    return context.get_dummy_value()


def _folded_pairs(builder: Any, vectors: list[Any]) -> list[Any]:
    """From extremes of sixteen groups to one vector: the largest of each, then the smallest."""
    for size in (1, 2, 4):
        masks = []
        for half in (0, 4):
            mask = []
            for lane in range(0, TILE, 8):
                for k in range(half // size, half // size + 4 // size):
                    run = [lane + k * size + j for j in range(size)]
                    mask += run + [TILE + i for i in run]
            masks.append(mask)
        vectors = [
            _pick(builder, "smax", *(mixed(builder, a, b, mask) for mask in masks))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors


def _merged(builder: Any, vectors: list[Any]) -> Any:
    """Two vectors of eight groups, whose quarters are halves of maxima, twice, and of minima."""
    a, b = vectors
    quarter = [list(range(8 * k, 8 * k + 8)) for k in range(8)]
    masks = [quarter[k] + quarter[4 + k] + quarter[2 + k] + quarter[6 + k] for k in range(2)]
    return _pick(builder, "smax", *(mixed(builder, a, b, mask) for mask in masks))


class _Settling:
    """Scales and minima of sixteen groups from their extremes: half and minmax, for what is ordinary.

    Halves are made as the float32 equal to them: a normal one by rounding away 13 bits, a subnormal
    one by adding 1/2, whose last bit weighs 2^-24 as theirs.
    """

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def _rounded(self, x: Any, up: Any) -> Any:
        """The half next to x >= 0: add `up` to the bits and cut; subnormal ones are rounded up."""
        builder = self._builder
        bits = builder.and_(builder.add(builder.bitcast(x, I32T), up), every(I32T, -0x2000))
        half, last = every(F32T, 0.5), every(F32T, 2.0**-24)
        near = builder.fsub(builder.fadd(x, half), half)
        more = builder.select(builder.fcmp_ordered("<", near, x), last, F32T(None))
        small = builder.fcmp_ordered("<", x, every(F32T, SMALLEST_NORMAL))
        return builder.select(small, builder.fadd(near, more), builder.bitcast(bits, F32T))

    def outward(self, x: Any) -> Any:
        """half.half_outward1 of x >= 0, up to the largest half."""
        builder = self._builder
        odd = builder.lshr(builder.bitcast(x, I32T), every(I32T, 13))
        odd = builder.and_(odd, every(I32T, 1))
        return self._rounded(x, builder.add(odd, every(I32T, 0xFFF)))

    def above(self, x: Any) -> Any:
        """The smallest half not below x >= 0, up to the largest one."""
        return self._rounded(x, every(I32T, 0x1FFF))

    def patterns(self, size: Any, minus: Any) -> Any:
        """Halves as 16 bits from their sizes; minus, the sign in place, 32-bit lanes."""
        builder = self._builder
        bits = builder.lshr(builder.bitcast(size, I32T), every(I32T, 13))
        normal = builder.sub(bits, every(I32T, 112 << 10))
        low = builder.bitcast(builder.fadd(size, every(F32T, 0.5)), I32T)
        low = builder.sub(low, every(I32T, 0x3F000000))
        small = builder.fcmp_ordered("<", size, every(F32T, SMALLEST_NORMAL))
        half = builder.or_(builder.select(small, low, normal), minus)
        return builder.trunc(half, I16T)

    def asymmetric(self, low: Any, high: Any, top: Any) -> tuple[Any, Any]:
        """Scale, and size of the minimum, of low <= 0 <= high."""
        builder = self._builder
        depth = self.above(builder.fneg(low))
        width = builder.fadd(high, depth)
        return self.outward(builder.fdiv(width, splat(builder, top, F32T))), depth

    def symmetric(self, low: Any, high: Any, zero: Any) -> tuple[Any, Any]:
        """Size of the scale, and whether it is negative, of low <= 0 <= high."""
        builder = self._builder
        depth = builder.fneg(low)
        upper = builder.fcmp_ordered(">", high, depth)
        extreme = builder.select(upper, high, depth)
        return self.outward(builder.fdiv(extreme, splat(builder, zero, F32T))), upper


def _sane(builder: Any, low: Any, high: Any, first: Any, last: Any) -> list[Any]:
    """Tests of groups: weights of both signs (or zeros), all finite."""
    infinite = every(F32T, float("inf"))
    return [
        builder.icmp_signed(">=", first, I16T(None)),
        builder.icmp_signed("<", last, I16T(None)),
        builder.fcmp_ordered("<", high, infinite),
        builder.fcmp_ordered(">", low, builder.fneg(infinite)),
    ]


def _near(builder: Any, size: Any, depth: Any, high: Any) -> list[Any]:
    """Tests of groups: the minimum is no more than FAR scales, and high less minimum is exact."""
    far, nought = every(F32T, FAR), F32T(None)

    def below(a: Any, b: Any) -> Any:
        return builder.fcmp_ordered("<=", a, builder.fmul(b, far))

    def none(a: Any) -> Any:
        return builder.fcmp_ordered("==", a, nought)

    return [
        below(depth, size),
        builder.or_(below(depth, high), none(high)),
        builder.or_(below(high, depth), none(depth)),
        builder.fcmp_ordered("<=", depth, every(F32T, LARGEST)),
    ]


def offset_of(builder: Any, zero: Any) -> Any:
    return splat(builder, builder.fadd(zero, F32(0.5)), F32T)


def _settle(kind: str, symmetric: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found, scales, mins, rules = arrays(context, builder, signature, args, 4)
        place, into, stride, zero, top = args[4:]
        made, stored = _Settling(builder), Stored(context, builder, kind)
        home = builder.mul(place, place.type(TILE))
        vectors = [
            builder.load(
                at(builder, found.data, builder.add(home, home.type(TILE * k)), PATTERNS), align=2
            )
            for k in range(COUNT)
        ]
        both = _merged(builder, _folded_pairs(builder, vectors))
        first = mixed(builder, both, both, list(range(TURN)))
        last = mixed(builder, both, both, list(range(TURN, TILE)))
        last = builder.xor(last, every(I16T, -0x8000))
        # -0.0 becomes 0.0
        low, high = (builder.fadd(stored.wide(end), F32T(None)) for end in (last, first))
        minus, tests = every(I32T, 0x8000), _sane(builder, low, high, first, last)
        if symmetric:
            size, upper = made.symmetric(low, high, zero)
            scale = builder.select(upper, builder.fneg(size), size)
            minimum = F32T(None)
            sign = builder.select(upper, minus, I32T(None))
            halves = [made.patterns(size, sign)]
        else:
            size, depth = made.asymmetric(low, high, top)
            scale, minimum = size, builder.fsub(F32T(None), depth)
            nought = builder.fcmp_ordered("==", depth, F32T(None))
            other = builder.select(nought, I32T(None), minus)
            halves = [made.patterns(size, I32T(None)), made.patterns(depth, other)]
            tests += _near(builder, size, depth, high)
        for data, value in zip((scales.data, mins.data), halves, strict=False):
            builder.store(value, at(builder, data, into, I16T), align=2)
        inverse = builder.fdiv(every(F32T, 1.0), scale)
        bound = builder.fmul(size, every(F32T, 0.501))
        if symmetric:
            # What is clipped, at the end away from the extreme, is off by more.
            end = builder.select(upper, builder.fneg(low), high)
            last_value = builder.fmul(size, splat(builder, builder.fsub(zero, F32(1.0)), F32T))
            over = builder.fmul(builder.fsub(end, last_value), every(F32T, 1.0 + 2.0**-20))
            bound = larger(builder, bound, over)
        for row, value in enumerate((inverse, minimum, builder.fneg(scale), bound)):
            index = builder.add(place, builder.mul(stride, stride.type(row)))
            builder.store(value, at(builder, rules.data, index, F32T), align=4)
        tests.append(builder.fcmp_ordered("<=", size, every(F32T, LARGEST)))
        for t in (
            builder.fadd(
                builder.fmul(builder.fsub(end, minimum), inverse), offset_of(builder, zero)
            )
            for end in (low, high)
        ):
            tests.append(builder.fcmp_ordered(">=", t, F32T(None)))
            if not symmetric:
                limit = splat(builder, builder.fadd(top, F32(1.0)), F32T)
                tests.append(builder.fcmp_ordered("<", t, limit))
        good = tests[0]
        for test in tests[1:]:
            good = builder.and_(good, test)
        fits = builder.icmp_signed("==", builder.bitcast(good, I16), I16(-1))
        return context.make_tuple(builder, signature.return_type, [fits, highest(builder, bound)])

    return emit


def _extremes_type(typing: Any, x: Any, found: Any, start: Any, turns: Any, place: Any) -> Any:
    return types.void(x, found, *(types.intp,) * 3), _extremes


def _settle_type(
    typing: Any, kind: Any, symmetric: Any, found: Any, scales: Any, mins: Any, rules: Any,
    place: Any, into: Any, stride: Any, zero: Any, top: Any,
) -> Any:  # fmt: skip
    result = types.Tuple((types.boolean, types.float32))
    form, places, floats = (types.intp, types.boolean), (types.intp,) * 3, (types.float32,) * 2
    return result(*form, found, scales, mins, rules, *places, *floats), by_form(_settle)


# x is uint16, patterns of BF16 or F16 weights.
#
# extremes(x, found, start, turns, place): write to found[place], of int16 (groups, TILE), what settle
# makes the range of a group from
extremes = cast("Callable[..., None]", intrinsic(_extremes_type))

# settle(kind, symmetric, found, scales, mins, rules, place, into, stride, zero, top): for COUNT groups, found from place
# on, write scale and, unless symmetric, minimum, halves as uint16, to scales and mins from `into` on, and
# rules, of float32 (RULES, stride), from place on; zero and top, float32, as in encode.rule1
#   Result  whether all of these groups are of the ordinary kind (what is written is meaningless if
#           not): finite, with weights of both signs, a scale that is a normal half, a minimum within
#           FAR scales, and codes that need no clipping (symmetric: none at 0); and the largest BOUND
settle = cast("Callable[..., tuple[bool, np.float32]]", intrinsic(_settle_type))
