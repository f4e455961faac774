"""Round to nearest as instructions: ranges, scales and codes of many groups at a time.

Used by nearest for weights of 16 bits in whole groups of a multiple of TILE weights. Ranges are found
on the stored patterns, 32 at a time: as signed numbers the largest pattern is the largest weight, as
unsigned ones it is the smallest, unless all weights of a group have one sign, which is told apart.
What is done once for a group is done for COUNT groups at once; the rule of a group is read from
memory as its weights pass, and error sums stay in registers from group to group.

Patterns of BF16 are widened without being moved: the even ones by a shift, the odd ones by clearing
what is below them, so a vector holds weights 0, 2, 4 ... and the next one 1, 3, 5 ...
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.vectors import (
    F32,
    F32T,
    I8T,
    I32,
    I32T,
    TURN,
    added,
    arrays,
    at,
    larger,
    smaller,
    splat,
    variable,
)

TILE = 2 * TURN  # weights a group has a multiple of
COUNT = TURN  # groups settled at a time
# Rows of rules, float32 (RULES, groups): 1 / s, the minimum or 0, -s, and what |e| cannot exceed.
INVERSE, LOW, NEGATIVE, BOUND = range(4)
RULES = 4
LARGEST, SMALLEST_NORMAL = 65504.0, 2.0**-14  # halves
# The largest ratio of minimum to scale for which e is taken from w - m (see encode_span), and of one
# end of a range to the other for which their difference, 11 bits less 11 bits, is exact.
FAR = 2.0**11

types: Any = numba_types
I16, HALF = ir.IntType(16), ir.HalfType()
PATTERNS, HALVES = ir.VectorType(I16, TILE), ir.VectorType(HALF, TURN)
I16T = ir.VectorType(I16, TURN)
PAIRS = ir.VectorType(I32, TURN)


def _all(kind: Any, value: float) -> Any:
    return ir.Constant(kind, [value] * kind.count)


def _mixed(builder: Any, a: Any, b: Any, mask: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(mask)), mask))


def _pick(builder: Any, name: str, a: Any, b: Any) -> Any:
    kind = ir.FunctionType(a.type, [a.type] * 2)
    function = builder.module.declare_intrinsic(f"llvm.{name}.v{a.type.count}i16", fnty=kind)
    return builder.call(function, [a, b])


def _absolute(builder: Any, x: Any) -> Any:
    kind = ir.FunctionType(x.type, [x.type])
    function = builder.module.declare_intrinsic(f"llvm.fabs.v{x.type.count}f32", fnty=kind)
    return builder.call(function, [x])


def _extremes(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    x, found = arrays(context, builder, signature, args, 2)
    start, turns, place = args[2:]
    first = builder.load(at(builder, x.data, start, PATTERNS), align=2)
    top, bottom = variable(builder, first), variable(builder, first)
    with cgutils.for_range(builder, builder.sub(turns, turns.type(1))) as loop:
        i = builder.add(builder.mul(loop.index, start.type(TILE)), start.type(TILE))
        value = builder.load(at(builder, x.data, builder.add(start, i), PATTERNS), align=2)
        builder.store(_pick(builder, "smax", builder.load(top), value), top)
        builder.store(_pick(builder, "umax", builder.load(bottom), value), bottom)
    high = builder.load(top)
    low = builder.xor(builder.load(bottom), _all(PATTERNS, -0x8000))
    lower, upper = list(range(TURN)), list(range(TURN, TILE))
    folded = _pick(
        builder,
        "smax",
        _mixed(builder, high, low, lower + [TILE + k for k in lower]),
        _mixed(builder, high, low, upper + [TILE + k for k in upper]),
    )
    home = at(builder, found.data, builder.mul(place, place.type(TILE)), PATTERNS)
    builder.store(folded, home, align=2)
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
            _pick(builder, "smax", *(_mixed(builder, a, b, mask) for mask in masks))
            for a, b in zip(vectors[::2], vectors[1::2], strict=True)
        ]
    return vectors


class _Settling:
    """Scales and minima of sixteen groups from their extremes: half and minmax, for what is ordinary.

    Halves are made as the float32 equal to them: a normal one by rounding away 13 bits, a subnormal
    one by adding 1/2, whose last bit weighs 2^-24 as theirs.
    """

    def __init__(self, builder: Any, kind: str) -> None:
        self._builder, self._kind = builder, kind

    def wide(self, patterns: Any) -> Any:
        """Stored patterns as float32, -0.0 as 0.0."""
        builder = self._builder
        if self._kind == "BF16":
            value = builder.shl(builder.zext(patterns, I32T), _all(I32T, 16))
            value = builder.bitcast(value, F32T)
        else:
            value = builder.fpext(builder.bitcast(patterns, HALVES), F32T)
        return builder.fadd(value, F32T(None))

    def _rounded(self, x: Any, up: Any) -> Any:
        """The half next to x >= 0: add `up` to the bits and cut; subnormal ones are rounded up."""
        builder = self._builder
        bits = builder.and_(builder.add(builder.bitcast(x, I32T), up), _all(I32T, -0x2000))
        half, last = _all(F32T, 0.5), _all(F32T, 2.0**-24)
        near = builder.fsub(builder.fadd(x, half), half)
        more = builder.select(builder.fcmp_ordered("<", near, x), last, F32T(None))
        small = builder.fcmp_ordered("<", x, _all(F32T, SMALLEST_NORMAL))
        return builder.select(small, builder.fadd(near, more), builder.bitcast(bits, F32T))

    def outward(self, x: Any) -> Any:
        """half.half_outward1 of x >= 0, up to the largest half."""
        builder = self._builder
        odd = builder.lshr(builder.bitcast(x, I32T), _all(I32T, 13))
        odd = builder.and_(odd, _all(I32T, 1))
        return self._rounded(x, builder.add(odd, _all(I32T, 0xFFF)))

    def above(self, x: Any) -> Any:
        """The smallest half not below x >= 0, up to the largest one."""
        return self._rounded(x, _all(I32T, 0x1FFF))

    def patterns(self, size: Any, minus: Any) -> Any:
        """Halves as 16 bits from their sizes; minus, the sign in place, 32-bit lanes."""
        builder = self._builder
        bits = builder.lshr(builder.bitcast(size, I32T), _all(I32T, 13))
        normal = builder.sub(bits, _all(I32T, 112 << 10))
        low = builder.bitcast(builder.fadd(size, _all(F32T, 0.5)), I32T)
        low = builder.sub(low, _all(I32T, 0x3F000000))
        small = builder.fcmp_ordered("<", size, _all(F32T, SMALLEST_NORMAL))
        half = builder.or_(builder.select(small, low, normal), minus)
        return builder.trunc(half, I16T)

    def asymmetric(self, low: Any, high: Any, top: Any) -> tuple[Any, Any, Any]:
        """Scale, size of the minimum, and size of the range, of low <= 0 <= high."""
        builder = self._builder
        depth = self.above(builder.fneg(low))
        width = builder.fadd(high, depth)
        return self.outward(builder.fdiv(width, splat(builder, top, F32T))), depth, width

    def symmetric(self, low: Any, high: Any, zero: Any) -> tuple[Any, Any]:
        """Size of the scale, and whether it is negative, of low <= 0 <= high."""
        builder = self._builder
        depth = builder.fneg(low)
        upper = builder.fcmp_ordered(">", high, depth)
        extreme = builder.select(upper, high, depth)
        return self.outward(builder.fdiv(extreme, splat(builder, zero, F32T))), upper


def _settle(kind: str, symmetric: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        found, scales, mins, rules = arrays(context, builder, signature, args, 4)
        place, stride, zero, top = args[4:]
        made = _Settling(builder, kind)
        home = builder.mul(place, place.type(TILE))
        vectors = [
            builder.load(at(builder, found.data, builder.add(home, home.type(TILE * k)), PATTERNS), align=2)
            for k in range(COUNT)
        ]
        both = _merged(builder, _folded_pairs(builder, vectors))
        first = _mixed(builder, both, both, list(range(TURN)))
        last = _mixed(builder, both, both, list(range(TURN, TILE)))
        last = builder.xor(last, _all(I16T, -0x8000))
        low, high = made.wide(last), made.wide(first)
        minus, tests = _all(I32T, 0x8000), _sane(builder, low, high, first, last)
        if symmetric:
            size, upper = made.symmetric(low, high, zero)
            scale = builder.select(upper, builder.fneg(size), size)
            minimum = F32T(None)
            sign, other = builder.select(upper, minus, I32T(None)), I32T(None)
            halves = made.patterns(size, sign), I16T(None)
        else:
            size, depth, width = made.asymmetric(low, high, top)
            scale, minimum = size, builder.fsub(F32T(None), depth)
            nought = builder.fcmp_ordered("==", depth, F32T(None))
            other = builder.select(nought, I32T(None), minus)
            halves = made.patterns(size, I32T(None)), made.patterns(depth, other)
            tests += _near(builder, size, depth, high)
        for data, value in zip((scales.data, mins.data), halves, strict=True):
            builder.store(value, at(builder, data, place, I16T), align=2)
        inverse = builder.fdiv(_all(F32T, 1.0), scale)
        bound = builder.fmul(size, _all(F32T, 0.501))
        if symmetric:
            # What is clipped, at the end away from the extreme, is off by more.
            end = builder.select(upper, builder.fneg(low), high)
            last_value = builder.fmul(size, splat(builder, builder.fsub(zero, F32(1.0)), F32T))
            over = builder.fmul(builder.fsub(end, last_value), _all(F32T, 1.0 + 2.0**-20))
            bound = larger(builder, bound, over)
        for row, value in enumerate((inverse, minimum, builder.fneg(scale), bound)):
            index = builder.add(place, builder.mul(stride, stride.type(row)))
            builder.store(value, at(builder, rules.data, index, F32T), align=4)
        tests.append(builder.fcmp_ordered("<=", size, _all(F32T, LARGEST)))
        for t in (
            builder.fadd(builder.fmul(builder.fsub(end, minimum), inverse), _offset(builder, zero))
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
        return context.make_tuple(builder, signature.return_type, [fits, _reduced(builder, bound)])

    return emit


def _offset(builder: Any, zero: Any) -> Any:
    return splat(builder, builder.fadd(zero, F32(0.5)), F32T)


def _sane(builder: Any, low: Any, high: Any, first: Any, last: Any) -> list[Any]:
    """Tests of groups: weights of both signs (or zeros), all finite."""
    infinite = _all(F32T, float("inf"))
    return [
        builder.icmp_signed(">=", first, I16T(None)),
        builder.icmp_signed("<", last, I16T(None)),
        builder.fcmp_ordered("<", high, infinite),
        builder.fcmp_ordered(">", low, builder.fneg(infinite)),
    ]


def _near(builder: Any, size: Any, depth: Any, high: Any) -> list[Any]:
    """Tests of groups: the minimum is no more than FAR scales, and high less minimum is exact."""
    far, nought = _all(F32T, FAR), F32T(None)

    def below(a: Any, b: Any) -> Any:
        return builder.fcmp_ordered("<=", a, builder.fmul(b, far))

    def none(a: Any) -> Any:
        return builder.fcmp_ordered("==", a, nought)

    return [
        below(depth, size),
        builder.or_(below(depth, high), none(high)),
        builder.or_(below(high, depth), none(depth)),
        builder.fcmp_ordered("<=", depth, _all(F32T, LARGEST)),
    ]


def _merged(builder: Any, vectors: list[Any]) -> Any:
    """Two vectors of eight groups, whose quarters are halves of maxima, twice, and of minima."""
    a, b = vectors
    quarter = [list(range(8 * k, 8 * k + 8)) for k in range(8)]
    masks = [quarter[k] + quarter[4 + k] + quarter[2 + k] + quarter[6 + k] for k in range(2)]
    return _pick(builder, "smax", *(_mixed(builder, a, b, mask) for mask in masks))


def _reduced(builder: Any, value: Any) -> Any:
    """The largest lane."""
    while value.type.count > 1:
        half = value.type.count // 2
        low, high = (
            _mixed(builder, value, value, list(range(k, k + half))) for k in (0, half)
        )
        value = larger(builder, low, high)
    return builder.extract_element(value, I32(0))


def _pair(builder: Any, kind: str, data: Any, index: Any) -> list[Any]:
    """The TILE weights from an index on as two vectors of float32."""
    if kind == "BF16":
        both = builder.load(at(builder, data, index, PAIRS), align=2)
        even = builder.shl(both, _all(I32T, 16))
        odd = builder.and_(both, _all(I32T, -0x10000))
        return [builder.bitcast(value, F32T) for value in (even, odd)]
    places = [builder.add(index, index.type(k)) for k in (0, TURN)]
    return [
        builder.fpext(builder.load(at(builder, data, place, HALVES), align=2), F32T)
        for place in places
    ]


def _put(builder: Any, kind: str, data: Any, index: Any, codes: list[Any]) -> None:
    """Store the codes of a pair, one to a byte, in order."""
    if kind == "BF16":
        both = builder.or_(codes[0], builder.shl(codes[1], _all(I32T, 8)))
        builder.store(builder.trunc(both, I16T), at(builder, data, index, I16T), align=1)
        return
    for k, code in enumerate(codes):
        place = builder.add(index, index.type(TURN * k))
        builder.store(builder.trunc(code, I8T), at(builder, data, place, I8T), align=1)


def _fetch(builder: Any, data: Any, index: Any) -> None:
    pointer = ir.IntType(8).as_pointer()
    place = builder.bitcast(builder.gep(data, [index]), pointer)
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
    builder.call(function, [place, I32(0), I32(3), I32(1)])


def _encode(kind: str, symmetric: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, q, rules, sums = arrays(context, builder, signature, args, 4)
        start, into, turns, first, count, stride, ahead, zero, top = args[4:]
        zeros, tops = (splat(builder, value, F32T) for value in (zero, top))
        offset = _offset(builder, zero)
        homes = [at(builder, sums.data, start.type(TURN * k), F32T) for k in range(3)]
        totals = [variable(builder, builder.load(home, align=4)) for home in homes]
        width = builder.mul(turns, turns.type(TILE))

        def code(w: Any, inverse: Any, low: Any, negative: Any) -> tuple[Any, Any]:
            y = w if symmetric else builder.fsub(w, low)
            t = builder.fadd(builder.fmul(y, inverse), offset)
            if symmetric:
                t = smaller(builder, t, tops)
            u = builder.fptosi(t, I32T)
            f = builder.sitofp(u, F32T)
            if symmetric:
                f = builder.fsub(f, zeros)
            return u, added(builder, negative, f, y)

        with cgutils.for_range(builder, count) as groups:
            g = builder.add(first, groups.index)
            rule = [
                splat(
                    builder,
                    builder.load(
                        builder.gep(
                            rules.data, [builder.add(g, builder.mul(stride, stride.type(row)))]
                        )
                    ),
                    F32T,
                )
                for row in (INVERSE, LOW, NEGATIVE)
            ]
            base = builder.mul(groups.index, width)
            with cgutils.for_range(builder, turns) as loop:
                offset_in = builder.add(base, builder.mul(loop.index, base.type(TILE)))
                i = builder.add(start, offset_in)
                _fetch(builder, x.data, builder.add(i, ahead))
                codes = []
                for w in _pair(builder, kind, x.data, i):
                    u, e = code(w, *rule)
                    codes.append(u)
                    for total, (a, b) in zip(totals, ((w, w), (e, e), (w, e)), strict=True):
                        builder.store(added(builder, a, b, builder.load(total)), total)
                _put(builder, kind, q.data, builder.add(into, offset_in), codes)
        for home, total in zip(homes, totals, strict=True):
            builder.store(builder.load(total), home, align=4)
        return context.get_dummy_value()

    return emit


def _largest(kind: str, symmetric: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, q, rules = arrays(context, builder, signature, args, 3)
        start, into, turns, g, stride, zero = args[3:]
        low, negative = (
            splat(
                builder,
                builder.load(
                    builder.gep(rules.data, [builder.add(g, builder.mul(stride, stride.type(row)))])
                ),
                F32T,
            )
            for row in (LOW, NEGATIVE)
        )
        zeros = splat(builder, zero, F32T)
        most = variable(builder, F32T(None))
        with cgutils.for_range(builder, turns) as loop:
            step = builder.mul(loop.index, start.type(TILE))
            place = builder.add(into, step)
            for k, w in enumerate(_pair(builder, kind, x.data, builder.add(start, step))):
                codes = _codes(builder, kind, q.data, place, k)
                f = builder.fsub(builder.sitofp(codes, F32T), zeros)
                value = builder.fadd(builder.fmul(builder.fneg(negative), f), low)
                size = _absolute(builder, builder.fsub(w, value))
                builder.store(larger(builder, size, builder.load(most)), most)
        return _reduced(builder, builder.load(most))

    return emit


def _codes(builder: Any, kind: str, data: Any, index: Any, k: int) -> Any:
    """What _put stored."""
    if kind == "BF16":
        both = builder.zext(builder.load(at(builder, data, index, I16T), align=1), I32T)
        return builder.lshr(both, _all(I32T, 8)) if k else builder.and_(both, _all(I32T, 0xFF))
    place = builder.add(index, index.type(TURN * k))
    return builder.zext(builder.load(at(builder, data, place, I8T), align=1), I32T)


def _extremes_type(typing: Any, x: Any, found: Any, start: Any, turns: Any, place: Any) -> Any:
    return types.void(x, found, *(types.intp,) * 3), _extremes


def _settle_type(kind: str, symmetric: bool) -> Any:
    emit = _settle(kind, symmetric)

    def typed(
        typing: Any, found: Any, scales: Any, mins: Any, rules: Any, place: Any, stride: Any,
        zero: Any, top: Any,
    ) -> Any:  # fmt: skip
        result = types.Tuple((types.boolean, types.float32))
        places, floats = (types.intp,) * 2, (types.float32,) * 2
        return result(found, scales, mins, rules, *places, *floats), emit

    return typed


def _encode_type(kind: str, symmetric: bool) -> Any:
    emit = _encode(kind, symmetric)

    def typed(
        typing: Any, x: Any, q: Any, rules: Any, sums: Any, start: Any, into: Any, turns: Any,
        first: Any, count: Any, stride: Any, ahead: Any, zero: Any, top: Any,
    ) -> Any:  # fmt: skip
        places, floats = (types.intp,) * 7, (types.float32,) * 2
        return types.void(x, q, rules, sums, *places, *floats), emit

    return typed


def _largest_type(kind: str, symmetric: bool) -> Any:
    emit = _largest(kind, symmetric)

    def typed(
        typing: Any, x: Any, q: Any, rules: Any, start: Any, into: Any, turns: Any, g: Any,
        stride: Any, zero: Any,
    ) -> Any:  # fmt: skip
        return types.float32(x, q, rules, *(types.intp,) * 5, types.float32), emit

    return typed


# In all of these x is uint16, patterns of finite BF16 or F16 weights, and turns is the number of
# TILE weights worked on from start on.
#
# extremes(x, found, start, turns, place): write to found[place], of int16 (COUNT, TILE), what
# settle_spans makes the range of a group from
extremes = cast("Callable[..., None]", intrinsic(_extremes_type))

# settle_spans(found, scales, mins, rules, place, stride, zero, top): for the COUNT groups in found,
# write scale and minimum, halves as uint16, to scales and mins from place on, and rules, of float32
# (RULES, stride); zero and top, float32, as in encode.rule1
#   Result  whether all of these groups are of the ordinary kind (what is written is meaningless if
#           not): finite, with weights of both signs, a scale that is a normal half, a minimum within
#           FAR scales, and codes that need no clipping (symmetric: none at 0); and the largest BOUND
Settle = Callable[..., tuple[bool, np.float32]]
settle_bf16 = cast("Settle", intrinsic(_settle_type("BF16", symmetric=False)))
settle_bf16_symmetric = cast("Settle", intrinsic(_settle_type("BF16", symmetric=True)))
settle_f16 = cast("Settle", intrinsic(_settle_type("F16", symmetric=False)))
settle_f16_symmetric = cast("Settle", intrinsic(_settle_type("F16", symmetric=True)))

# encode_span(x, q, rules, sums, start, into, turns, first, count, stride, ahead, zero, top): codes of
# count groups from number first of rules on, one after the other from start on, to q, uint8, from into
# on; add sums of w^2, e^2 and w e to float32 (3, TURN). The pattern `ahead` elements on is fetched.
#   e is (w - m) - s (u - z), the product exact: in groups of the ordinary kind within 2^-23 |w| of w
#   less the stored value
Encode = Callable[..., None]
encode_bf16 = cast("Encode", intrinsic(_encode_type("BF16", symmetric=False)))
encode_bf16_symmetric = cast("Encode", intrinsic(_encode_type("BF16", symmetric=True)))
encode_f16 = cast("Encode", intrinsic(_encode_type("F16", symmetric=False)))
encode_f16_symmetric = cast("Encode", intrinsic(_encode_type("F16", symmetric=True)))

# largest_error(x, q, rules, start, into, turns, g, stride, zero): the largest |w - v| of a group
Largest = Callable[..., np.float32]
largest_bf16 = cast("Largest", intrinsic(_largest_type("BF16", symmetric=False)))
largest_f16 = cast("Largest", intrinsic(_largest_type("F16", symmetric=False)))
