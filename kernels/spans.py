"""Codes and errors of many groups as instructions, for nearest.

The rule of a group is read from memory as its weights pass, and error sums stay in registers from
group to group.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.settle import INVERSE, LOW, NEGATIVE
from kernels.stored import TILE, WIDTHS, Stored, absolute, highest
from kernels.vectors import (
    F32,
    F32T,
    I32,
    I32T,
    ROUND,
    TURN,
    added,
    arrays,
    at,
    larger,
    smaller,
    splat,
    variable,
)

types: Any = numba_types


def _fetch(builder: Any, data: Any, index: Any) -> None:
    pointer = ir.IntType(8).as_pointer()
    place = builder.bitcast(builder.gep(data, [index]), pointer)
    kind = ir.FunctionType(ir.VoidType(), [pointer, I32, I32, I32])
    function = builder.module.declare_intrinsic("llvm.prefetch.p0", fnty=kind)
    builder.call(function, [place, I32(0), I32(3), I32(1)])


def _each_width(builder: Any, bits: Any, emit: Callable[[int], None]) -> None:
    """emit(width) for the width of codes that bits is."""
    done = builder.append_basic_block("packed")
    switch = builder.switch(bits, done)
    for width in WIDTHS:
        block = builder.append_basic_block(f"bits{width}")
        switch.add_case(bits.type(width), block)
        with builder.goto_block(block):
            emit(width)
            builder.branch(done)
    builder.position_at_end(done)


def _encode(kind: str, symmetric: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = Stored(context, builder, kind)
        x, q, rules, sums = arrays(context, builder, signature, args, 4)
        start, turns, first, count, stride, ahead, bits, zero, top = args[4:]
        centre, largest = (
            splat(builder, builder.fadd(code, F32(ROUND)), F32T) for code in (zero, top)
        )
        homes = [at(builder, sums.data, start.type(TURN * k), F32T) for k in range(3)]
        totals = [variable(builder, builder.load(home, align=4)) for home in homes]
        width = builder.mul(turns, turns.type(TILE))

        def code(w: Any, inverse: Any, low: Any, negative: Any) -> tuple[Any, Any]:
            y = w if symmetric else builder.fsub(w, low)
            t = builder.fadd(builder.fmul(y, inverse), centre)
            if symmetric:
                t = smaller(builder, t, largest)
            e = added(builder, negative, builder.fsub(t, centre), y)
            return builder.bitcast(t, I32T), e

        def span(wide: int) -> None:
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
                    for w in stored.pair(x.data, i):
                        u, e = code(w, *rule)
                        codes.append(u)
                        for total, (a, b) in zip(totals, ((w, w), (e, e), (w, e)), strict=True):
                            builder.store(added(builder, a, b, builder.load(total)), total)
                    stored.put(q.data, i, codes, wide)

        _each_width(builder, bits, span)
        for home, total in zip(homes, totals, strict=True):
            builder.store(builder.load(total), home, align=4)
        return context.get_dummy_value()

    return emit


def _largest(kind: str, symmetric: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = Stored(context, builder, kind)
        x, q, rules = arrays(context, builder, signature, args, 3)
        start, turns, g, stride, bits, zero = args[3:]
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

        def group(wide: int) -> None:
            with cgutils.for_range(builder, turns) as loop:
                step = builder.mul(loop.index, start.type(TILE))
                place = builder.add(start, step)
                weights = stored.pair(x.data, place)
                for w, u in zip(weights, stored.codes(q.data, place, wide), strict=True):
                    f = builder.fsub(builder.sitofp(u, F32T), zeros)
                    value = builder.fadd(builder.fmul(builder.fneg(negative), f), low)
                    size = absolute(builder, builder.fsub(w, value))
                    builder.store(larger(builder, size, builder.load(most)), most)

        _each_width(builder, bits, group)
        return highest(builder, builder.load(most))

    return emit


def _encode_type(kind: str, symmetric: bool) -> Any:
    emit = _encode(kind, symmetric)

    def typed(
        typing: Any, x: Any, q: Any, rules: Any, sums: Any, start: Any, turns: Any,
        first: Any, count: Any, stride: Any, ahead: Any, bits: Any, zero: Any, top: Any,
    ) -> Any:  # fmt: skip
        places, floats = (types.intp,) * 7, (types.float32,) * 2
        return types.void(x, q, rules, sums, *places, *floats), emit

    return typed


def _largest_type(kind: str, symmetric: bool) -> Any:
    emit = _largest(kind, symmetric)

    def typed(
        typing: Any, x: Any, q: Any, rules: Any, start: Any, turns: Any, g: Any,
        stride: Any, bits: Any, zero: Any,
    ) -> Any:  # fmt: skip
        return types.float32(x, q, rules, *(types.intp,) * 5, types.float32), emit

    return typed


# In both of these x is uint16, patterns of finite BF16 or F16 weights, turns is the number of TILE
# weights worked on in each group, and q, uint8, is a row of packed codes of so many bits.
#
# encode_span(x, q, rules, sums, start, turns, first, count, stride, ahead, bits, zero, top):
# codes of count groups from number first of rules on, one after the other from start on, to their
# places in q; add sums of w^2, e^2 and w e to float32 (3, TURN). The pattern `ahead` elements on is fetched.
#   e is (w - m) - s (u - z), the product exact: in groups of the ordinary kind within 2^-23 |w| of w
#   less the stored value
Encode = Callable[..., None]
encode_bf16 = cast("Encode", intrinsic(_encode_type("BF16", symmetric=False)))
encode_bf16_symmetric = cast("Encode", intrinsic(_encode_type("BF16", symmetric=True)))
encode_f16 = cast("Encode", intrinsic(_encode_type("F16", symmetric=False)))
encode_f16_symmetric = cast("Encode", intrinsic(_encode_type("F16", symmetric=True)))

# largest_error(x, q, rules, start, turns, g, stride, bits, zero): the largest |w - v| of a group
Largest = Callable[..., np.float32]
largest_bf16 = cast("Largest", intrinsic(_largest_type("BF16", symmetric=False)))
largest_f16 = cast("Largest", intrinsic(_largest_type("F16", symmetric=False)))
