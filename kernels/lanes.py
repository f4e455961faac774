"""Sixteen weights at a time, in explicit vectors: the order of every sum is fixed, see vectors.

Error sums are float32 over a few hundred weights, then float64. Rejected: four scalar accumulators per sum, which the compiler does not turn into vectors (five
times slower); eight float64 lanes, which do not fit into sixteen 256-bit registers (twice slower);
fast-math loops.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.extending import intrinsic

from kernels.vectors import (
    F32,
    F32S,
    F32T,
    F64S,
    I8,
    I32,
    I32T,
    LANES,
    ROUND,
    STEP,
    TURN,
    added,
    arrays,
    at,
    each_step,
    halves,
    larger,
    smaller,
    splat,
    variable,
)

types: Any = numba_types


class Rule:
    """The rule of encode as instructions; scalars is the tuple that encode.rule1 returns."""

    def __init__(self, builder: Any, scalars: Any, lanes: int) -> None:
        self._builder = builder
        self._floats, self._integers = ir.VectorType(F32, lanes), ir.VectorType(I32, lanes)
        values = [builder.extract_value(scalars, k) for k in range(scalars.type.count)]
        self._scalars = [splat(builder, value, self._floats) for value in values]
        self._nought = ir.Constant(self._floats, [ROUND] * lanes)

    def codes(self, x: Any) -> Any:
        """ROUND + u, u = clip(round((x - low) * inverse) + zero, 0, top)."""
        builder = self._builder
        inverse, low, offset, top, *_ = self._scalars
        t = builder.fadd(builder.fmul(builder.fsub(x, low), inverse), offset)
        return smaller(builder, larger(builder, t, self._nought), top)

    def values(self, t: Any) -> Any:
        """v = scale * u + origin, float32, of what codes gives."""
        builder = self._builder
        *_, scale, origin = self._scalars
        # The product is exact (see encode), so fused or not is the same.
        return added(builder, scale, builder.fsub(t, self._nought), origin)

    def bytes(self, t: Any) -> Any:
        """u, 8 bits, of what codes gives."""
        whole = self._builder.bitcast(t, self._integers)
        return self._builder.trunc(whole, ir.VectorType(I8, t.type.count))


class _ErrorSums:
    """The five error sums in registers, from and to an array, float64 (COLUMNS, LANES)."""

    lanes = STEP

    def __init__(self, builder: Any, lanes: Any, start: Any) -> None:
        self._builder = builder
        self._absolute = builder.module.declare_intrinsic(
            "llvm.fabs.v4f64", fnty=ir.FunctionType(F64S, [F64S])
        )
        self._homes = [at(builder, lanes.data, start.type(LANES * k), F64S) for k in range(5)]
        self._totals = [variable(builder, builder.load(home, align=8)) for home in self._homes]

    def add(self, x: Any, value: Any) -> None:
        builder, totals = self._builder, self._totals
        for y, v in zip(halves(builder, x), halves(builder, value), strict=True):
            e = builder.fsub(y, v)
            for total, (a, b) in zip(totals, ((y, y), (e, e), (y, v), (v, v)), strict=False):
                builder.store(builder.fadd(builder.load(total), builder.fmul(a, b)), total)
            size = builder.call(self._absolute, [e])
            builder.store(larger(builder, size, builder.load(totals[4])), totals[4])

    def write(self) -> None:
        for home, total in zip(self._homes, self._totals, strict=True):
            self._builder.store(self._builder.load(total), home, align=8)


class _ShortSums:
    """Sums of w^2, e^2 and v^2 and the largest |e|, from and to an array, float32 (4, TURN)."""

    lanes = TURN

    def __init__(self, builder: Any, lanes: Any, start: Any) -> None:
        self._builder = builder
        self._absolute = builder.module.declare_intrinsic(
            f"llvm.fabs.v{TURN}f32", fnty=ir.FunctionType(F32T, [F32T])
        )
        self._homes = [at(builder, lanes.data, start.type(TURN * k), F32T) for k in range(4)]
        self._totals = [variable(builder, builder.load(home, align=4)) for home in self._homes]

    def add(self, x: Any, value: Any) -> None:
        builder, totals = self._builder, self._totals
        e = builder.fsub(x, value)
        for total, a in zip(totals, (x, e, value), strict=False):
            builder.store(added(builder, a, a, builder.load(total)), total)
        size = builder.call(self._absolute, [e])
        builder.store(larger(builder, size, builder.load(totals[3])), totals[3])

    def write(self) -> None:
        for home, total in zip(self._homes, self._totals, strict=True):
            self._builder.store(self._builder.load(total), home, align=4)


def _encode(kind: Any) -> Any:
    """The loop of an encoder that keeps its sums in this kind."""
    floats, bytes_ = ir.VectorType(F32, kind.lanes), ir.VectorType(I8, kind.lanes)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        w, q, lanes = arrays(context, builder, signature, args, 3)
        start, stop = args[3:5]
        rule = Rule(builder, args[5], kind.lanes)
        sums = kind(builder, lanes, start)

        def body(i: Any, keep: Any) -> None:
            x = builder.load(at(builder, w.data, i, floats), align=4)
            t = rule.codes(x)
            u, value = rule.bytes(t), rule.values(t)
            if keep is not None:
                x, u, value = keep(x), keep(u), keep(value)
            builder.store(u, at(builder, q.data, i, bytes_), align=1)
            sums.add(x, value)

        each_step(builder, start, stop, body, kind.lanes)
        sums.write()
        return context.get_dummy_value()

    return emit


def _measure(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    w, v, lanes = arrays(context, builder, signature, args, 3)
    start, stop = args[3:5]
    sums = _ErrorSums(builder, lanes, start)

    def body(i: Any, keep: Any) -> None:
        x, value = (builder.load(at(builder, a.data, i, F32S), align=4) for a in (w, v))
        if keep is not None:
            x, value = keep(x), keep(value)
        sums.add(x, value)

    each_step(builder, start, stop, body)
    sums.write()
    return context.get_dummy_value()


def _error(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    (w,) = arrays(context, builder, signature, args, 1)
    start, stop = args[1:3]
    rule = Rule(builder, args[3], TURN)
    total = variable(builder, F32T(None))

    def body(i: Any, keep: Any) -> None:
        x = builder.load(at(builder, w.data, i, F32T), align=4)
        e = builder.fsub(x, rule.values(rule.codes(x)))
        if keep is not None:
            e = keep(e)
        builder.store(added(builder, e, e, builder.load(total)), total)

    each_step(builder, start, stop, body, TURN)
    return builder.fpext(folded(builder, builder.load(total)), ir.DoubleType())


def folded(builder: Any, total: Any) -> Any:
    """The sum of lanes: upper half to lower half, until one is left."""
    while total.type.count > 1:
        half = total.type.count // 2
        undefined = ir.Constant(total.type, ir.Undefined)
        low, high = (
            builder.shuffle_vector(
                total,
                undefined,
                ir.Constant(ir.VectorType(I32, half), list(range(first, first + half))),
            )
            for first in (0, half)
        )
        total = builder.fadd(low, high)
    return builder.extract_element(total, ir.Constant(I32, 0))


def _fold(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    short, totals = arrays(context, builder, signature, args, 2)
    doubles = ir.VectorType(ir.DoubleType(), TURN)
    for row in range(3):
        place = at(builder, short.data, ir.IntType(64)(TURN * row), F32T)
        home = at(builder, totals.data, ir.IntType(64)(TURN * row), doubles)
        wide = builder.fpext(builder.load(place, align=4), doubles)
        builder.store(builder.fadd(builder.load(home, align=8), wide), home, align=8)
        builder.store(F32T(None), place, align=4)
    return context.get_dummy_value()


def _moments(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    (image,) = arrays(context, builder, signature, args, 1)
    start, stop = args[1:3]
    slope, offset, top = (splat(builder, value, F32T) for value in args[3:6])
    totals = [variable(builder, F32T(None)) for _ in range(3)]

    def body(i: Any, keep: Any) -> None:
        x = builder.load(at(builder, image.data, i, F32T), align=4)
        t = builder.fadd(builder.fmul(x, slope), offset)
        code = builder.fptosi(smaller(builder, larger(builder, t, t.type(None)), top), I32T)
        u = builder.sitofp(code, F32T)
        if keep is not None:
            u = keep(u)
        su, suu, sxu = (builder.load(total) for total in totals)
        # Products of codes and images are exact, so fused or not is the same.
        sums = builder.fadd(su, u), added(builder, u, u, suu), added(builder, x, u, sxu)
        for value, total in zip(sums, totals, strict=True):
            builder.store(value, total)

    each_step(builder, start, stop, body, TURN)
    results = [folded(builder, builder.load(total)) for total in totals]
    return context.make_tuple(builder, signature.return_type, results)


def _image(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    w, image = arrays(context, builder, signature, args, 2)
    start, stop = args[2:4]
    centre, gain = (splat(builder, value, F32T) for value in args[4:6])
    # Rounded as a code of 16 bits is, then centred.
    shift, top, half = (ir.Constant(F32T, [v] * TURN) for v in (32768.5, 65535.0, 32768.0))
    total = variable(builder, F32T(None))

    def body(i: Any, keep: Any) -> None:
        x = builder.load(at(builder, w.data, i, F32T), align=4)
        t = builder.fadd(builder.fmul(builder.fsub(x, centre), gain), shift)
        code = builder.fptosi(smaller(builder, larger(builder, t, t.type(None)), top), I32T)
        value = builder.fsub(builder.sitofp(code, F32T), half)
        if keep is not None:
            value = keep(value)
        builder.store(value, at(builder, image.data, i, F32T), align=4)
        builder.store(builder.fadd(builder.load(total), value), total)

    each_step(builder, start, stop, body, TURN)
    return folded(builder, builder.load(total))


def _key_range(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    (bits,) = arrays(context, builder, signature, args, 1)
    start, stop = args[1:3]
    most, least = (ir.Constant(I32T, [number] * TURN) for number in (0x7FFFFFFF, -0x80000000))
    sign = ir.Constant(I32T, [31] * TURN)
    low, high = variable(builder, most), variable(builder, least)
    kind = ir.FunctionType(I32T, [I32T] * 2)
    pick = {
        name: builder.module.declare_intrinsic(f"llvm.{name}.v{TURN}i32", fnty=kind)
        for name in ("smin", "smax")
    }

    def body(i: Any, keep: Any) -> None:
        x = builder.load(at(builder, bits.data, i, I32T), align=4)
        key = builder.xor(x, builder.and_(builder.ashr(x, sign), most))
        smallest, largest = (key, key) if keep is None else (keep(key, most), keep(key, least))
        builder.store(builder.call(pick["smin"], [builder.load(low), smallest]), low)
        builder.store(builder.call(pick["smax"], [builder.load(high), largest]), high)

    each_step(builder, start, stop, body, TURN)
    results = [
        builder.call(
            builder.module.declare_intrinsic(
                f"llvm.vector.reduce.{name}.v{TURN}i32", fnty=ir.FunctionType(I32, [I32T])
            ),
            [builder.load(total)],
        )
        for name, total in (("smin", low), ("smax", high))
    ]
    return context.make_tuple(builder, signature.return_type, results)


def _encode_type(kind: Any) -> Any:
    emit = _encode(kind)

    def typed(typing: Any, w: Any, q: Any, sums: Any, start: Any, stop: Any, rule: Any) -> Any:
        return types.void(w, q, sums, types.intp, types.intp, rule), emit

    return typed


def _measure_type(typing: Any, w: Any, v: Any, sums: Any, start: Any, stop: Any) -> Any:
    return types.void(w, v, sums, types.intp, types.intp), _measure


def _error_type(typing: Any, w: Any, start: Any, stop: Any, rule: Any) -> Any:
    return types.float64(w, types.intp, types.intp, rule), _error


def _prefetch(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    (data,) = arrays(context, builder, signature, args, 1)
    pointer, word = ir.IntType(8).as_pointer(), I32
    place = builder.bitcast(builder.gep(data.data, [args[1]]), pointer)
    kind = ir.FunctionType(ir.VoidType(), [pointer, word, word, word])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
    builder.call(function, [place, word(0), word(3), word(1)])
    return context.get_dummy_value()


def _prefetch_type(typing: Any, data: Any, index: Any) -> Any:
    return types.void(data, types.intp), _prefetch


def _fold_type(typing: Any, short: Any, totals: Any) -> Any:
    return types.void(short, totals), _fold


def _moments_type(
    typing: Any, image: Any, start: Any, stop: Any, slope: Any, offset: Any, top: Any
) -> Any:
    floats = (types.float32,) * 3
    return types.UniTuple(types.float32, 3)(image, types.intp, types.intp, *floats), _moments


def _image_type(
    typing: Any, w: Any, image: Any, start: Any, stop: Any, centre: Any, gain: Any
) -> Any:
    floats = (types.float32,) * 2
    return types.float32(w, image, types.intp, types.intp, *floats), _image


def _key_range_type(typing: Any, w: Any, start: Any, stop: Any) -> Any:
    return types.UniTuple(types.int32, 2)(w, types.intp, types.intp), _key_range


# In all of these, weights are finite and arrays are contiguous.
#
# encode_lanes(w, q, sums, start, stop, rule)
#   w       float32, finite
#   q       uint8, codes of w[start:stop], written
#   sums    float32 (4, TURN): sums of w^2, e^2 and v^2 and the largest |e|, to which those of
#           w[start:stop] are added, weight i in lane (i - start) % TURN; for some hundred weights
#           whose squares are far from the ends of float32
#   start, stop   any; the arrays have room up to the end of the last turn, see TURN, in which the
#           codes from stop on are set to 0
#   rule    from encode.rule1
encode_lanes = cast("Callable[..., None]", intrinsic(_encode_type(_ShortSums)))

# fold_short(short, totals): add the sums (not the largest) to float64 (3, TURN), and clear them
fold_short = cast("Callable[..., None]", intrinsic(_fold_type))

# encode_exact(w, q, sums, start, stop, rule): the same with sums float64 (COLUMNS, LANES), weight i
# in lane i % LANES: half as fast, for any finite weights
encode_exact = cast("Callable[..., None]", intrinsic(_encode_type(_ErrorSums)))

# measure_lanes(w, v, sums, start, stop): add to sums as encode_exact does, for decoded values v
measure_lanes = cast("Callable[..., None]", intrinsic(_measure_type))

# error_lanes(w, start, stop, rule): the sum of e^2 only, float64, of float32 lanes
error_lanes = cast("Callable[..., np.float64]", intrinsic(_error_type))

# moments_lanes(image, start, stop, slope, offset, top): sums of u, u^2 and image * u, float32, with
# u = clip(floor(image * slope + offset), 0, top); for at most lsq.CHUNK weights, whose images are
# integers of 16 bits, held as float32
moments_lanes = cast(
    "Callable[..., tuple[np.float32, np.float32, np.float32]]", intrinsic(_moments_type)
)

# image_lanes(w, image, start, stop, centre, gain): write round((w - centre) * gain), clipped to 16 bits,
# to image[start:stop], and zeros to the end of the turn; the sum, float32, exact for lsq.CHUNK weights
image_lanes = cast("Callable[..., np.float32]", intrinsic(_image_type))

# key_range_lanes(w, start, stop): smallest and largest key of float32 weights, int32; see ranges
key_range_lanes = cast("Callable[..., tuple[np.int32, np.int32]]", intrinsic(_key_range_type))

# prefetch(data, index): fetch the line of data[index], which need not be inside, into the cache
prefetch = cast("Callable[..., None]", intrinsic(_prefetch_type))
