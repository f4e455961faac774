"""Weights of 16 bits as instructions: how they are read, TILE at a time, and their codes laid out.

Patterns of BF16 are widened without being moved: the even ones by a shift, the odd ones by clearing
what is below them, so a vector holds weights 0, 2, 4 ... and the next one 1, 3, 5 ...
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from kernels.vectors import F32T, I8T, I32, I32T, TURN, at, larger

TILE = 2 * TURN  # weights a group has a multiple of
I16, HALF = ir.IntType(16), ir.HalfType()
PATTERNS, HALVES = ir.VectorType(I16, TILE), ir.VectorType(HALF, TURN)
I16T = ir.VectorType(I16, TURN)


def every(kind: Any, value: float) -> Any:
    """A constant in every lane."""
    return ir.Constant(kind, [value] * kind.count)


def mixed(builder: Any, a: Any, b: Any, mask: list[int]) -> Any:
    """Lanes of a and b by number."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(mask)), mask))


def absolute(builder: Any, x: Any) -> Any:
    """|x|, lane by lane."""
    kind = ir.FunctionType(x.type, [x.type])
    function = builder.module.declare_intrinsic(f"llvm.fabs.v{x.type.count}f32", fnty=kind)
    return builder.call(function, [x])


def highest(builder: Any, value: Any) -> Any:
    """The largest lane."""
    while value.type.count > 1:
        half = value.type.count // 2
        low, high = (mixed(builder, value, value, list(range(k, k + half))) for k in (0, half))
        value = larger(builder, low, high)
    return builder.extract_element(value, I32(0))


class Stored:
    """Weights and codes of a kind, BF16 or F16."""

    def __init__(self, context: Any, builder: Any, kind: str) -> None:
        self._builder, self._even = builder, kind == "BF16"
        triple, _, features = context.codegen().magic_tuple()
        self._native = "+f16c" in features or not triple.startswith(("x86", "i"))

    def wide(self, patterns: Any) -> Any:
        """Stored patterns as float32, exact; NaN and Inf stay so."""
        builder = self._builder
        if self._even:
            value = builder.shl(builder.zext(patterns, I32T), every(I32T, 16))
            return builder.bitcast(value, F32T)
        if self._native:
            return builder.fpext(builder.bitcast(patterns, HALVES), F32T)
        bits = builder.zext(patterns, I32T)  # as widen does
        size = builder.and_(bits, every(I32T, 0x7FFF))
        endless = builder.icmp_signed(">=", size, every(I32T, 0x7C00))
        bias = builder.select(endless, every(I32T, 224 << 23), every(I32T, 112 << 23))
        normal = builder.add(builder.shl(size, every(I32T, 13)), bias)
        small = builder.fmul(builder.sitofp(size, F32T), every(F32T, 2.0**-24))
        fine = builder.icmp_signed("<", size, every(I32T, 0x400))
        value = builder.select(fine, builder.bitcast(small, I32T), normal)
        sign = builder.shl(builder.and_(bits, every(I32T, 0x8000)), every(I32T, 16))
        return builder.bitcast(builder.or_(value, sign), F32T)

    def pair(self, data: Any, index: Any) -> list[Any]:
        """The weights from an index on, in two vectors."""
        builder = self._builder
        if self._even:
            both = builder.load(at(builder, data, index, I32T), align=2)
            even = builder.shl(both, every(I32T, 16))
            odd = builder.and_(both, every(I32T, -0x10000))
            return [builder.bitcast(value, F32T) for value in (even, odd)]
        places = [builder.add(index, index.type(k)) for k in (0, TURN)]
        return [
            self.wide(builder.load(at(builder, data, place, I16T), align=2)) for place in places
        ]

    def put(self, data: Any, index: Any, codes: list[Any]) -> None:
        """Store the codes of a pair, one to a byte, in the order of the weights."""
        builder = self._builder
        if self._even:
            both = builder.or_(codes[0], builder.shl(codes[1], every(I32T, 8)))
            builder.store(builder.trunc(both, I16T), at(builder, data, index, I16T), align=1)
            return
        for k, code in enumerate(codes):
            place = builder.add(index, index.type(TURN * k))
            builder.store(builder.trunc(code, I8T), at(builder, data, place, I8T), align=1)

    def codes(self, data: Any, index: Any) -> list[Any]:
        """What put stored."""
        builder = self._builder
        if self._even:
            both = builder.zext(builder.load(at(builder, data, index, I16T), align=1), I32T)
            byte = every(I32T, 8)
            return [builder.and_(both, every(I32T, 0xFF)), builder.lshr(both, byte)]
        places = [builder.add(index, index.type(k)) for k in (0, TURN)]
        return [
            builder.zext(builder.load(at(builder, data, place, I8T), align=1), I32T)
            for place in places
        ]
