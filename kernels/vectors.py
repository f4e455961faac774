"""Vectors of weights as instructions: what the functions of lanes are written with.

The compiler may not reorder float sums without fast-math, and with it the result would depend on
the width of the processor's registers. Here the lanes are spelt out, so the order of every sum is
fixed. No operation carries a fast-math flag. Codes, scales and values are made without fused
operations; sums of squared errors take them where the processor has them, see added.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba.core import cgutils

STEP = 8  # lanes of a vector
TURN = 16  # weights per turn of a loop: two vectors of 256 bits, or one of 512
LANES = 4  # float64 lanes of an error sum

F32, F64, I8, I32 = ir.FloatType(), ir.DoubleType(), ir.IntType(8), ir.IntType(32)
F32S, F64S = ir.VectorType(F32, STEP), ir.VectorType(F64, LANES)
I8S, I32S = ir.VectorType(I8, STEP), ir.VectorType(I32, STEP)
F32T, I8T, I32T = (ir.VectorType(kind, TURN) for kind in (F32, I8, I32))
# Added to a float32 of no more than 2^22 it makes the next integer, ties to even: the sum's low bits
# are that integer, and taking it off again is exact.
ROUND = 12582912.0  # 1.5 * 2^23
NOUGHTS = ir.Constant(F32S, [0.0] * STEP)


def splat(builder: Any, value: Any, vector: Any) -> Any:
    """The scalar in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(I32, 0))
    mask = ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, mask)


def mixed(builder: Any, a: Any, b: Any, mask: list[int]) -> Any:
    """Lanes of a and b by number."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(mask)), mask))


def larger(builder: Any, a: Any, b: Any) -> Any:
    """Lane by lane; b where the two do not compare."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def smaller(builder: Any, a: Any, b: Any) -> Any:
    """Lane by lane; b where the two do not compare."""
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


def at(builder: Any, data: Any, index: Any, vector: Any) -> Any:
    """Pointer to a vector of elements starting at data[index]."""
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def halves(builder: Any, value: Any) -> list[Any]:
    """Eight float32 as two vectors of four float64, in order."""
    undefined = ir.Constant(value.type, ir.Undefined)
    masks = [
        ir.Constant(ir.VectorType(I32, LANES), list(range(first, first + LANES)))
        for first in range(0, STEP, LANES)
    ]
    return [builder.fpext(builder.shuffle_vector(value, undefined, mask), F64S) for mask in masks]


def variable(builder: Any, value: Any) -> Any:
    """A place for a vector that the compiler will keep in a register."""
    with builder.goto_entry_block():
        place = builder.alloca(value.type)
    builder.store(value, place)
    return place


def each_step(
    builder: Any, start: Any, stop: Any, body: Callable[[Any, Any], None], step: int = STEP
) -> None:
    """Emit body(index, keep) for every step weights from start to stop.

    keep is None for whole steps. The last one may be partial: then it is a function that sets the
    lanes from stop on to zero (or to what it is given); arrays are readable and writable up to the
    end of that step.
    """
    width, lanes = start.type, ir.VectorType(I32, step)
    rest = builder.and_(builder.sub(stop, start), width(step - 1))
    whole = builder.sub(stop, rest)
    with cgutils.for_range_slice(builder, start, whole, width(step), inc=True) as (i, _):
        body(i, None)
    with builder.if_then(builder.icmp_signed("!=", rest, width(0)), likely=False):
        numbers = ir.Constant(lanes, list(range(step)))
        inside = builder.icmp_signed("<", numbers, splat(builder, builder.trunc(rest, I32), lanes))

        def keep(value: Any, other: Any = None) -> Any:
            return builder.select(inside, value, value.type(None) if other is None else other)

        body(whole, keep)


def fused(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once, on every processor."""
    kind = ir.FunctionType(a.type, [a.type] * 3)
    function = builder.module.declare_intrinsic(f"llvm.fma.v{a.type.count}f32", fnty=kind)
    return builder.call(function, [a, b, c])


def added(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a b + c, rounded once where the processor has such an instruction, else twice."""
    kind = ir.FunctionType(a.type, [a.type] * 3)
    function = builder.module.declare_intrinsic(f"llvm.fmuladd.v{a.type.count}f32", fnty=kind)
    return builder.call(function, [a, b, c])


def repeated(builder: Any, value: Any, count: int) -> Any:
    """A vector of eight lanes, count times."""
    mask = ir.Constant(ir.VectorType(I32, STEP * count), list(range(STEP)) * count)
    return builder.shuffle_vector(value, value, mask)


def parts(builder: Any, value: Any, lanes: int) -> list[Any]:
    """A vector as vectors of so many lanes."""
    starts = range(0, value.type.count, lanes)
    return [mixed(builder, value, value, list(range(k, k + lanes))) for k in starts]


def arrays(context: Any, builder: Any, signature: Any, args: Any, count: int) -> list[Any]:
    """The first arguments, which are arrays."""
    return [
        context.make_array(kind)(context, builder, value)
        for kind, value in zip(signature.args[:count], args[:count], strict=True)
    ]
