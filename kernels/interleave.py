"""Weights of eight groups brought side by side, and their codes back, in explicit vectors.

Item i of the group in lane j goes to place1(j, i): squares of eight groups by eight items are transposed
in registers, a bit of the two numbers at a time.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels._jit import Integer, inlined
from kernels.vectors import F32S, I8, STEP, arrays, at, mixed, splat

SQUARE = STEP * STEP
BYTES = ir.VectorType(I8, SQUARE)

types: Any = numba_types


@inlined
def place1(lane: Integer, item: Integer, items: Integer) -> Integer:
    """Where an item of the group in a lane is."""
    return (lane // STEP * items + item) * STEP + lane % STEP


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    """Eight vectors of eight, columns for rows: exchanges bit after bit of row and column."""
    for bit in (1, 2, 4):
        first = [j if j & bit == 0 else STEP + j - bit for j in range(STEP)]
        second = [j + bit if j & bit == 0 else STEP + j for j in range(STEP)]
        found = list(rows)
        for i in range(STEP):
            if i & bit == 0:
                found[i] = mixed(builder, rows[i], rows[i + bit], first)
                found[i + bit] = mixed(builder, rows[i], rows[i + bit], second)
        rows = found
    return rows


def _squares(builder: Any, lanes: Any, items: Any, body: Callable[[Any, Any], None]) -> None:
    """body(place in the row, place side by side) for every square."""
    step, square = items.type(STEP), items.type(SQUARE)
    with cgutils.for_range(builder, builder.udiv(lanes, step)) as across:
        with cgutils.for_range(builder, builder.udiv(items, step)) as along:
            home = builder.mul(across.index, builder.mul(items, step))
            row = builder.add(home, builder.mul(along.index, step))
            body(row, builder.add(home, builder.mul(along.index, square)))


def _apart(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    w, raw, scaled = arrays(context, builder, signature, args, 3)
    lanes, items = args[3:5]
    unit = splat(builder, args[5], F32S)

    def body(row: Any, place: Any) -> None:
        places = [builder.add(row, builder.mul(items, items.type(k))) for k in range(STEP)]
        rows = [builder.load(at(builder, w.data, i, F32S), align=4) for i in places]
        for k, value in enumerate(_transposed(builder, rows)):
            i = builder.add(place, place.type(STEP * k))
            builder.store(value, at(builder, raw.data, i, F32S), align=4)
            builder.store(builder.fmul(value, unit), at(builder, scaled.data, i, F32S), align=4)

    _squares(builder, lanes, items, body)
    return context.get_dummy_value()


def _together(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    apart, q = arrays(context, builder, signature, args, 2)
    lanes, items = args[2:4]
    eight = ir.VectorType(I8, STEP)

    def body(row: Any, place: Any) -> None:
        square = builder.load(at(builder, apart.data, place, BYTES), align=1)
        turned = mixed(
            builder, square, square, [STEP * (k % STEP) + k // STEP for k in range(SQUARE)]
        )
        for k in range(STEP):
            codes = mixed(builder, turned, turned, list(range(STEP * k, STEP * (k + 1))))
            i = builder.add(row, builder.mul(items, items.type(k)))
            builder.store(codes, at(builder, q.data, i, eight), align=1)

    _squares(builder, lanes, items, body)
    return context.get_dummy_value()


def _apart_type(
    typing: Any, w: Any, raw: Any, scaled: Any, lanes: Any, items: Any, unit: Any
) -> Any:
    return types.void(w, raw, scaled, types.intp, types.intp, types.float32), _apart


def _together_type(typing: Any, apart: Any, q: Any, lanes: Any, items: Any) -> Any:
    return types.void(apart, q, types.intp, types.intp), _together


# apart(w, raw, scaled, lanes, items, unit): the groups of w, float32, side by side in raw, and times
# unit in scaled; lanes and items are multiples of eight
apart = cast("Callable[..., None]", intrinsic(_apart_type))

# together(apart, q, lanes, items): undo it for codes, uint8
together = cast("Callable[..., None]", intrinsic(_together_type))
