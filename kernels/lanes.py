"""Encode eight weights at a time: codes and error sums in one pass, in explicit vectors.

The loop vectoriser may not reorder float sums without fast-math, and with it the result would
depend on the width of the processor's registers. Here the eight lanes are spelt out, so the order
of every sum is fixed: lane j adds weights j, j + 8, j + 16, ...; lanes are then halved three times
(j with j + 4, j + 2, j + 1). Rejected: four scalar accumulators per sum, which the compiler does
not turn into vectors (0.4 instead of 1.7 thousand million weights per second).
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 8

types: Any = numba_types

_F32, _F64, _I8, _I32 = ir.FloatType(), ir.DoubleType(), ir.IntType(8), ir.IntType(32)
_F32S, _F64S = ir.VectorType(_F32, LANES), ir.VectorType(_F64, LANES)
_I8S, _I32S = ir.VectorType(_I8, LANES), ir.VectorType(_I32, LANES)


def _splat(builder: Any, value: Any, vector: ir.VectorType) -> Any:
    """The scalar in every lane."""
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(_I32, 0))
    mask = ir.Constant(ir.VectorType(_I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), mask)


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def _halve(builder: Any, value: Any, combine: Any) -> Any:
    """Combine the lanes of a vector pairwise, j with j + 4, then + 2, then + 1."""
    width = LANES
    while width > 1:
        width //= 2
        undefined = ir.Constant(value.type, ir.Undefined)
        parts = [
            builder.shuffle_vector(
                value,
                undefined,
                ir.Constant(ir.VectorType(_I32, width), list(range(first, first + width))),
            )
            for first in (0, width)
        ]
        value = combine(*parts)
    return builder.extract_element(value, ir.Constant(_I32, 0))


def _load(builder: Any, data: Any, index: Any, vector: ir.VectorType, align: int) -> Any:
    pointer = builder.bitcast(builder.gep(data, [index]), vector.as_pointer())
    return builder.load(pointer, align=align)


def _encode(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    arrays = [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args[:2], args[:2], strict=True)
    ]
    w, q = arrays
    size = builder.and_(w.nitems, ir.Constant(w.nitems.type, -LANES))
    scale, inverse, low, offset, top = (_splat(builder, value, _F32S) for value in args[2:7])
    zero = _splat(builder, args[7], _I32S)
    nothing32, nothing = ir.Constant(_F32S, [0.0] * LANES), ir.Constant(_F64S, [0.0] * LANES)
    sums = []
    for _ in range(5):
        with builder.goto_entry_block():
            sums.append(builder.alloca(_F64S))
        builder.store(nothing, sums[-1])
    absolute = builder.module.declare_intrinsic(
        "llvm.fabs.v8f64", fnty=ir.FunctionType(_F64S, [_F64S])
    )
    with cgutils.for_range_slice(builder, size.type(0), size, size.type(LANES), inc=True) as (i, _):
        x = _load(builder, w.data, i, _F32S, 4)
        t = builder.fadd(builder.fmul(builder.fsub(x, low), inverse), offset)
        t = _smaller(builder, _larger(builder, t, nothing32), top)
        u = builder.fptosi(t, _I32S)
        target = builder.bitcast(builder.gep(q.data, [i]), _I8S.as_pointer())
        builder.store(builder.trunc(u, _I8S), target, align=1)
        steps = builder.sitofp(builder.sub(u, zero), _F32S)
        v = builder.fpext(builder.fadd(builder.fmul(scale, steps), low), _F64S)
        x = builder.fpext(x, _F64S)
        e = builder.fsub(x, v)
        for total, (a, b) in zip(sums, ((x, x), (e, e), (x, v), (v, v)), strict=False):
            builder.store(builder.fadd(builder.load(total), builder.fmul(a, b)), total)
        builder.store(_larger(builder, builder.call(absolute, [e]), builder.load(sums[4])), sums[4])
    results = [_halve(builder, builder.load(total), builder.fadd) for total in sums[:4]]
    results.append(_halve(builder, builder.load(sums[4]), lambda a, b: _larger(builder, a, b)))
    return context.make_tuple(builder, signature.return_type, results)


def _encode_lanes(
    typing_context: Any,
    w: Any,
    q: Any,
    scale: Any,
    inverse: Any,
    low: Any,
    offset: Any,
    top: Any,
    zero: Any,
) -> Any:
    """Signature and code of encode_lanes."""
    signature = types.UniTuple(types.float64, 5)(
        w,
        q,
        types.float32,
        types.float32,
        types.float32,
        types.float32,
        types.float32,
        types.int32,
    )
    return signature, _encode


# Encode w[:size], size rounded down to LANES, by the rule of encode.
#   w, q            float32 weights and uint8 codes (written), contiguous
#   scale, inverse, low, offset, top    float32; zero int32
#   Result          sums of w^2, e^2, w v and v^2 and the largest |e| over w[:size], float64
encode_lanes = cast(
    "Callable[..., tuple[float, float, float, float, float]]", intrinsic(_encode_lanes)
)
