"""Eight weights at a time, in explicit vectors.

The compiler may not reorder float sums without fast-math, and with it the result would depend on
the width of the processor's registers. Here the lanes are spelt out: lane j adds weights j, j + 4,
j + 8, ... of a row, so the order of every sum is fixed. Rejected: four scalar accumulators per
sum, which the compiler does not turn into vectors (five times slower); eight float64 lanes, which
do not fit into sixteen 256-bit registers (twice slower); fast-math loops.

No operation carries a fast-math flag and none is fused.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

STEP = 8  # weights per turn of a loop
LANES = 4  # float64 lanes of an error sum

types: Any = numba_types

_F32, _F64, _I8, _I32 = ir.FloatType(), ir.DoubleType(), ir.IntType(8), ir.IntType(32)
_F32S, _F64S = ir.VectorType(_F32, STEP), ir.VectorType(_F64, LANES)
_I8S, _I32S = ir.VectorType(_I8, STEP), ir.VectorType(_I32, STEP)
_NOUGHTS = ir.Constant(_F32S, [0.0] * STEP)


def _splat(builder: Any, value: Any, vector: Any) -> Any:
    """The scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, STEP), [0] * STEP)
    return builder.shuffle_vector(first, undefined, mask)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _at(builder: Any, data: Any, index: Any, vector: Any) -> Any:
    """Pointer to a vector of elements starting at data[index]."""
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _halves(builder: Any, value: Any) -> list[Any]:
    """Eight float32 as two vectors of four float64, in order."""
    undefined = ir.Constant(value.type, ir.Undefined)
    masks = [
        ir.Constant(ir.VectorType(_I32, LANES), list(range(first, first + LANES)))
        for first in range(0, STEP, LANES)
    ]
    return [builder.fpext(builder.shuffle_vector(value, undefined, mask), _F64S) for mask in masks]


def _variable(builder: Any, value: Any) -> Any:
    """A place for a vector that the compiler will keep in a register."""
    with builder.goto_entry_block():
        place = builder.alloca(value.type)
    builder.store(value, place)
    return place


def _each_step(builder: Any, start: Any, stop: Any, body: Callable[[Any, Any], None]) -> None:
    """Emit body(index, keep) for every STEP weights from start to stop.

    keep is None for whole steps. The last one may be partial: then it is a function that sets the
    lanes from stop on to zero; arrays are readable and writable up to the end of that step.
    """
    width = start.type
    rest = builder.and_(builder.sub(stop, start), width(STEP - 1))
    whole = builder.sub(stop, rest)
    with cgutils.for_range_slice(builder, start, whole, width(STEP), inc=True) as (i, _):
        body(i, None)
    with builder.if_then(builder.icmp_signed("!=", rest, width(0)), likely=False):
        numbers = ir.Constant(_I32S, list(range(STEP)))
        inside = builder.icmp_signed(
            "<", numbers, _splat(builder, builder.trunc(rest, _I32), _I32S)
        )
        body(whole, lambda value: builder.select(inside, value, value.type(None)))


class _Rule:
    """The rule of encode as instructions; scalars is the tuple that encode.rule1 returns."""

    def __init__(self, builder: Any, scalars: Any) -> None:
        self._builder = builder
        values = [builder.extract_value(scalars, k) for k in range(scalars.type.count)]
        self._scalars = [_splat(builder, value, _F32S) for value in values]

    def codes(self, x: Any) -> Any:
        """u = clip(floor((x - low) * inverse + offset), 0, top), 32-bit lanes."""
        builder = self._builder
        _, inverse, low, offset, top, _ = self._scalars
        t = builder.fadd(builder.fmul(builder.fsub(x, low), inverse), offset)
        t = _larger(builder, t, _NOUGHTS)
        return builder.fptosi(_smaller(builder, t, top), _I32S)

    def values(self, u: Any) -> Any:
        """v = scale * (u - zero) + low, float32."""
        builder = self._builder
        scale, _, low, _, _, zero = self._scalars
        steps = builder.fsub(builder.sitofp(u, _F32S), zero)
        return builder.fadd(builder.fmul(scale, steps), low)


def _arrays(context: Any, builder: Any, signature: Any, args: Any, count: int) -> list[Any]:
    return [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args[:count], args[:count], strict=True)
    ]


def _encode(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    w, q, lanes = _arrays(context, builder, signature, args, 3)
    start, stop = args[3:5]
    rule = _Rule(builder, args[5])
    absolute = builder.module.declare_intrinsic(
        "llvm.fabs.v4f64", fnty=ir.FunctionType(_F64S, [_F64S])
    )
    homes = [_at(builder, lanes.data, start.type(LANES * k), _F64S) for k in range(5)]
    totals = [_variable(builder, builder.load(home, align=8)) for home in homes]

    def body(i: Any, keep: Any) -> None:
        x = builder.load(_at(builder, w.data, i, _F32S), align=4)
        u = rule.codes(x)
        value = rule.values(u)
        if keep is not None:
            x, u, value = keep(x), keep(u), keep(value)
        builder.store(builder.trunc(u, _I8S), _at(builder, q.data, i, _I8S), align=1)
        for y, v in zip(_halves(builder, x), _halves(builder, value), strict=True):
            e = builder.fsub(y, v)
            for total, (a, b) in zip(totals, ((y, y), (e, e), (y, v), (v, v)), strict=False):
                builder.store(builder.fadd(builder.load(total), builder.fmul(a, b)), total)
            size = builder.call(absolute, [e])
            builder.store(_larger(builder, size, builder.load(totals[4])), totals[4])

    _each_step(builder, start, stop, body)
    for home, total in zip(homes, totals, strict=True):
        builder.store(builder.load(total), home, align=8)
    return context.get_dummy_value()


def _error(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    (w,) = _arrays(context, builder, signature, args, 1)
    start, stop = args[1:3]
    rule = _Rule(builder, args[3])
    total = _variable(builder, ir.Constant(_F64S, [0.0] * LANES))

    def body(i: Any, keep: Any) -> None:
        x = builder.load(_at(builder, w.data, i, _F32S), align=4)
        value = rule.values(rule.codes(x))
        if keep is not None:
            x, value = keep(x), keep(value)
        for y, v in zip(_halves(builder, x), _halves(builder, value), strict=True):
            e = builder.fsub(y, v)
            builder.store(builder.fadd(builder.load(total), builder.fmul(e, e)), total)

    _each_step(builder, start, stop, body)
    lanes = builder.load(total)
    result = builder.extract_element(lanes, ir.Constant(_I32, 0))
    for lane in range(1, LANES):
        result = builder.fadd(result, builder.extract_element(lanes, ir.Constant(_I32, lane)))
    return result


def _moments(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    (image,) = _arrays(context, builder, signature, args, 1)
    start, stop = args[1:3]
    slope, offset, top = (_splat(builder, value, _F32S) for value in args[3:6])
    totals = [_variable(builder, ir.Constant(_I32S, [0] * STEP)) for _ in range(3)]

    def body(i: Any, keep: Any) -> None:
        x = builder.load(_at(builder, image.data, i, _I32S), align=4)
        t = builder.fadd(builder.fmul(builder.sitofp(x, _F32S), slope), offset)
        u = builder.fptosi(_smaller(builder, _larger(builder, t, _NOUGHTS), top), _I32S)
        if keep is not None:
            u = keep(u)
        for total, term in zip(totals, (u, builder.mul(u, u), builder.mul(x, u)), strict=True):
            builder.store(builder.add(builder.load(total), term), total)

    _each_step(builder, start, stop, body)
    add = builder.module.declare_intrinsic(
        "llvm.vector.reduce.add.v8i32", fnty=ir.FunctionType(_I32, [_I32S])
    )
    results = [builder.call(add, [builder.load(total)]) for total in totals]
    return context.make_tuple(builder, signature.return_type, results)


def _encode_type(typing: Any, w: Any, q: Any, sums: Any, start: Any, stop: Any, rule: Any) -> Any:
    return types.void(w, q, sums, types.intp, types.intp, rule), _encode


def _error_type(typing: Any, w: Any, start: Any, stop: Any, rule: Any) -> Any:
    return types.float64(w, types.intp, types.intp, rule), _error


def _moments_type(
    typing: Any, image: Any, start: Any, stop: Any, slope: Any, offset: Any, top: Any
) -> Any:
    floats = (types.float32,) * 3
    return types.UniTuple(types.int32, 3)(image, types.intp, types.intp, *floats), _moments


# In all three, weights are finite and arrays are contiguous.
#
# encode_lanes(w, q, sums, start, stop, rule)
#   w       float32, finite
#   q       uint8, codes of w[start:stop], written
#   sums    float64 (COLUMNS, LANES), to which the error sums are added, weight i in lane i % LANES
#   start, stop   any; the arrays have room up to the end of the last step, see STEP, in which the
#           codes from stop on are set to 0
#   rule    from encode.rule1
encode_lanes = cast("Callable[..., None]", intrinsic(_encode_type))

# error_lanes(w, start, stop, rule): the sum of e^2 only, float64
error_lanes = cast("Callable[..., np.float64]", intrinsic(_error_type))

# moments_lanes(image, start, stop, slope, offset, top): sums of u, u^2 and image * u, int32, with
# u = clip(floor(image * slope + offset), 0, top); for at most lsq.CHUNK weights
moments_lanes = cast("Callable[..., tuple[np.int32, np.int32, np.int32]]", intrinsic(_moments_type))
