"""Eight weights at a time, in explicit vectors.

Lane j adds weights j, j + 4, j + 8, ... of a row, so the order of every sum is fixed, see vectors.
Rejected: four scalar accumulators per sum, which the compiler does not turn into vectors (five
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
    F32S,
    F64S,
    I8S,
    I32,
    I32S,
    LANES,
    NOUGHTS,
    STEP,
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

    def __init__(self, builder: Any, scalars: Any) -> None:
        self._builder = builder
        values = [builder.extract_value(scalars, k) for k in range(scalars.type.count)]
        self._scalars = [splat(builder, value, F32S) for value in values]

    def codes(self, x: Any) -> Any:
        """u = clip(floor((x - low) * inverse + offset), 0, top), 32-bit lanes."""
        builder = self._builder
        inverse, low, offset, top, *_ = self._scalars
        t = builder.fadd(builder.fmul(builder.fsub(x, low), inverse), offset)
        t = larger(builder, t, NOUGHTS)
        return builder.fptosi(smaller(builder, t, top), I32S)

    def values(self, u: Any) -> Any:
        """v = scale * (u - zero) + low, float32."""
        builder = self._builder
        *_, scale, low, zero = self._scalars
        steps = builder.fsub(builder.sitofp(u, F32S), zero)
        return builder.fadd(builder.fmul(scale, steps), low)


class _ErrorSums:
    """The five error sums in registers, from and to an array (COLUMNS, LANES)."""

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


def _encode(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    w, q, lanes = arrays(context, builder, signature, args, 3)
    start, stop = args[3:5]
    rule = Rule(builder, args[5])
    sums = _ErrorSums(builder, lanes, start)

    def body(i: Any, keep: Any) -> None:
        x = builder.load(at(builder, w.data, i, F32S), align=4)
        u = rule.codes(x)
        value = rule.values(u)
        if keep is not None:
            x, u, value = keep(x), keep(u), keep(value)
        builder.store(builder.trunc(u, I8S), at(builder, q.data, i, I8S), align=1)
        sums.add(x, value)

    each_step(builder, start, stop, body)
    sums.write()
    return context.get_dummy_value()


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
    rule = Rule(builder, args[3])
    total = variable(builder, ir.Constant(F64S, [0.0] * LANES))

    def body(i: Any, keep: Any) -> None:
        x = builder.load(at(builder, w.data, i, F32S), align=4)
        value = rule.values(rule.codes(x))
        if keep is not None:
            x, value = keep(x), keep(value)
        for y, v in zip(halves(builder, x), halves(builder, value), strict=True):
            e = builder.fsub(y, v)
            builder.store(builder.fadd(builder.load(total), builder.fmul(e, e)), total)

    each_step(builder, start, stop, body)
    lanes = builder.load(total)
    result = builder.extract_element(lanes, ir.Constant(I32, 0))
    for lane in range(1, LANES):
        result = builder.fadd(result, builder.extract_element(lanes, ir.Constant(I32, lane)))
    return result


def _moments(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    (image,) = arrays(context, builder, signature, args, 1)
    start, stop = args[1:3]
    slope, offset, top = (splat(builder, value, F32S) for value in args[3:6])
    totals = [variable(builder, ir.Constant(I32S, [0] * STEP)) for _ in range(3)]

    def body(i: Any, keep: Any) -> None:
        x = builder.load(at(builder, image.data, i, I32S), align=4)
        t = builder.fadd(builder.fmul(builder.sitofp(x, F32S), slope), offset)
        u = builder.fptosi(smaller(builder, larger(builder, t, NOUGHTS), top), I32S)
        if keep is not None:
            u = keep(u)
        for total, term in zip(totals, (u, builder.mul(u, u), builder.mul(x, u)), strict=True):
            builder.store(builder.add(builder.load(total), term), total)

    each_step(builder, start, stop, body)
    add = builder.module.declare_intrinsic(
        "llvm.vector.reduce.add.v8i32", fnty=ir.FunctionType(I32, [I32S])
    )
    results = [builder.call(add, [builder.load(total)]) for total in totals]
    return context.make_tuple(builder, signature.return_type, results)


def _encode_type(typing: Any, w: Any, q: Any, sums: Any, start: Any, stop: Any, rule: Any) -> Any:
    return types.void(w, q, sums, types.intp, types.intp, rule), _encode


def _measure_type(typing: Any, w: Any, v: Any, sums: Any, start: Any, stop: Any) -> Any:
    return types.void(w, v, sums, types.intp, types.intp), _measure


def _error_type(typing: Any, w: Any, start: Any, stop: Any, rule: Any) -> Any:
    return types.float64(w, types.intp, types.intp, rule), _error


def _moments_type(
    typing: Any, image: Any, start: Any, stop: Any, slope: Any, offset: Any, top: Any
) -> Any:
    floats = (types.float32,) * 3
    return types.UniTuple(types.int32, 3)(image, types.intp, types.intp, *floats), _moments


# In all of these, weights are finite and arrays are contiguous.
#
# encode_lanes(w, q, sums, start, stop, rule)
#   w       float32, finite
#   q       uint8, codes of w[start:stop], written
#   sums    float64 (COLUMNS, LANES), to which the error sums are added, weight i in lane i % LANES
#   start, stop   any; the arrays have room up to the end of the last step, see STEP, in which the
#           codes from stop on are set to 0
#   rule    from encode.rule1
encode_lanes = cast("Callable[..., None]", intrinsic(_encode_type))

# measure_lanes(w, v, sums, start, stop): add to sums as encode_lanes does, for decoded values v
measure_lanes = cast("Callable[..., None]", intrinsic(_measure_type))

# error_lanes(w, start, stop, rule): the sum of e^2 only, float64
error_lanes = cast("Callable[..., np.float64]", intrinsic(_error_type))

# moments_lanes(image, start, stop, slope, offset, top): sums of u, u^2 and image * u, int32, with
# u = clip(floor(image * slope + offset), 0, top); for at most lsq.CHUNK weights
moments_lanes = cast("Callable[..., tuple[np.int32, np.int32, np.int32]]", intrinsic(_moments_type))
