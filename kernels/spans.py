"""Codes and errors of many groups as instructions, for nearest.

The rule of a group is read from memory as its weights pass, and error sums stay in registers from
group to group. Meanwhile the range of a later group is found, so that memory is always at work: what
is fetched ahead is fetched while there is much to do. Of processors with half as many registers that
would take those of the sums, and cost a tenth: ranges are for the caller there.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.forms import by_form, by_kind
from kernels.settle import INVERSE, LOW, NEGATIVE, Extremes
from kernels.stored import PATTERNS, TILE, WIDTHS, Stored, absolute, highest
from kernels.vectors import (
    F32,
    F32T,
    I32,
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


def _rule(builder: Any, rules: Any, g: Any, stride: Any, rows: tuple[int, ...]) -> list[Any]:
    """Rows of rules for group g, in every lane."""
    places = [builder.add(g, builder.mul(stride, stride.type(row))) for row in rows]
    return [
        splat(builder, builder.load(builder.gep(rules.data, [place])), F32T) for place in places
    ]


class _Coding:
    """Codes and errors of weights, by a rule."""

    def __init__(self, builder: Any, symmetric: bool, zero: Any, top: Any) -> None:
        self._builder, self._symmetric, self._zero, self._top = builder, symmetric, zero, top

    def ends(self, shift: int) -> list[Any]:
        """What codes z and the largest are, for the even weights of a pair and for the odd ones.

        Odd codes are put `shift` bits up less z: even ones have z more there.
        """
        builder, round_ = self._builder, F32(ROUND)
        more = builder.fmul(self._zero, F32(2.0**shift)) if self._symmetric else F32(0.0)
        return [
            [splat(builder, builder.fadd(builder.fadd(code, round_), extra), F32T)
             for code in (self._zero, self._top)]
            for extra in (more, F32(0.0))
        ]  # fmt: skip

    def code(self, w: Any, rule: list[Any], ends: list[Any]) -> tuple[Any, Any, Any]:
        """The code as it is rounded, without z, and the error."""
        builder, (inverse, low, negative), (centre, largest) = self._builder, rule, ends
        y = w if self._symmetric else builder.fsub(w, low)
        t = builder.fadd(builder.fmul(y, inverse), centre)
        if self._symmetric:
            t = smaller(builder, t, largest)
        f = builder.fsub(t, centre)
        return t, f, added(builder, negative, f, y)


def _encode(kind: str, symmetric: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored, extremes = Stored(context, builder, kind), Extremes(builder)
        ranging = "+avx512f" in context.codegen().magic_tuple()[2]
        x, q, rules, sums, found = arrays(context, builder, signature, args, 5)
        start, row, turns, first, count, after, last, group, resume = args[5:14]
        stride, ahead, bits, zero, top = args[14:]
        coding = _Coding(builder, symmetric, zero, top)
        homes = [at(builder, sums.data, start.type(TURN * k), F32T) for k in range(3)]
        totals = [variable(builder, builder.load(home, align=4)) for home in homes]
        width = builder.mul(turns, turns.type(TILE))

        def span(wide: int) -> None:
            ends = coding.ends(wide)
            with cgutils.for_range(builder, count) as groups:
                g = builder.add(first, groups.index)
                rule = _rule(builder, rules, g, stride, (INVERSE, LOW, NEGATIVE))
                base = builder.add(start, builder.mul(groups.index, width))
                other = builder.select(builder.icmp_signed("<", g, last), g, last)
                other = builder.add(after, builder.mul(other, group))
                if ranging:
                    extremes.begin()
                with cgutils.for_range(builder, turns) as loop:
                    step = builder.mul(loop.index, base.type(TILE))
                    i = builder.add(base, step)
                    _fetch(builder, x.data, builder.add(i, ahead))
                    if ranging:
                        place = at(builder, x.data, builder.add(other, step), PATTERNS)
                        extremes.add(builder.load(place, align=2))
                    codes = []
                    for w, limits in zip(stored.pair(x.data, i), ends, strict=True):
                        t, f, e = coding.code(w, rule, limits)
                        codes.append((t, f))
                        for total, (a, b) in zip(totals, ((w, w), (e, e), (w, e)), strict=True):
                            builder.store(added(builder, a, b, builder.load(total)), total)
                    (even, _), (_, odd) = codes
                    stored.put(q.data, builder.sub(i, row), even, odd, wide)
                if ranging:
                    extremes.end(found.data, g, resume)

        _each_width(builder, bits, span)
        for home, total in zip(homes, totals, strict=True):
            builder.store(builder.load(total), home, align=4)
        return count if ranging else count.type(0)

    return emit


def _largest(kind: str) -> Any:
    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        stored = Stored(context, builder, kind)
        x, q, rules = arrays(context, builder, signature, args, 3)
        start, row, turns, g, stride, bits, zero = args[3:]
        low, negative = _rule(builder, rules, g, stride, (LOW, NEGATIVE))
        zeros = splat(builder, zero, F32T)
        most = variable(builder, F32T(None))

        def group(wide: int) -> None:
            with cgutils.for_range(builder, turns) as loop:
                step = builder.mul(loop.index, start.type(TILE))
                place = builder.add(start, step)
                weights = stored.pair(x.data, place)
                codes = stored.codes(q.data, builder.sub(place, row), wide)
                for w, u in zip(weights, codes, strict=True):
                    f = builder.fsub(builder.sitofp(u, F32T), zeros)
                    value = builder.fadd(builder.fmul(builder.fneg(negative), f), low)
                    size = absolute(builder, builder.fsub(w, value))
                    builder.store(larger(builder, size, builder.load(most)), most)

        _each_width(builder, bits, group)
        return highest(builder, builder.load(most))

    return emit


def _encode_type(
    typing: Any, kind: Any, symmetric: Any, x: Any, q: Any, rules: Any, sums: Any, found: Any,
    start: Any, row: Any, turns: Any, first: Any, count: Any, after: Any, last: Any, group: Any,
    resume: Any, stride: Any, ahead: Any, bits: Any, zero: Any, top: Any,
) -> Any:  # fmt: skip
    form, places, floats = (types.intp, types.boolean), (types.intp,) * 12, (types.float32,) * 2
    return types.intp(*form, x, q, rules, sums, found, *places, *floats), by_form(_encode)


def _largest_type(
    typing: Any, kind: Any, x: Any, q: Any, rules: Any, start: Any, row: Any, turns: Any, g: Any,
    stride: Any, bits: Any, zero: Any,
) -> Any:  # fmt: skip
    places = (types.intp,) * 6
    return types.float32(types.intp, x, q, rules, *places, types.float32), by_kind(_largest)


# In both of these x is uint16, patterns of finite BF16 or F16 weights, turns is the number of TILE
# weights worked on in each group, and q, uint8, is the row of packed codes of so many bits whose first
# weight is x[row].
#
# encode_span(kind, symmetric, x, q, rules, sums, found, start, row, turns, first, count, after, last, group,
#             resume, stride, ahead, bits, zero, top):
# codes of count groups from number first of rules on, one after the other from start on, to their
# places in q; add sums of w^2, e^2 and w e to float32 (3, TURN). The pattern `ahead` elements on is fetched.
# As group g is encoded, what settle makes the range of min(g, last) from, of groups of so many weights
# from x[after] on (whatever they are), is written to found[g]: of as many turns, and of
# those before if resume is not 0.
#   Result  the number of groups ranged: all or, where that would be slower, none
#   e is (w - m) - s (u - z), the product exact: in groups of the ordinary kind within 2^-23 |w| of w
#   less the stored value
encode_span = cast("Callable[..., int]", intrinsic(_encode_type))

# largest_error(kind, x, q, rules, start, row, turns, g, stride, bits, zero): the largest |w - v| of a group
largest_error = cast("Callable[..., np.float32]", intrinsic(_largest_type))
