"""Weights of 16 bits as instructions: how they are read, TILE at a time, and their codes packed.

A pair of vectors holds weights 0, 2, 4 ... and 1, 3, 5 ...: patterns of BF16 are widened without being
moved, the even ones by a shift, the odd ones by clearing what is below them. Codes of such a pair are
packed (see bitpack) while they are in registers: an odd one is put to where its even one ends, which
makes one field of each lane, and neighbouring fields are joined in lanes twice as wide. The former is
one fused operation on the codes as float32, of which all such numbers are exact: with 512 bits there
are two ports for that, and one for shifts.
"""

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]

from kernels.vectors import F32T, I8, I8T, I32, I32T, TURN, added, at, larger, mixed

TILE = 2 * TURN  # weights a group has a multiple of
I16, HALF = ir.IntType(16), ir.HalfType()
PATTERNS, HALVES = ir.VectorType(I16, TILE), ir.VectorType(HALF, TURN)
I16T = ir.VectorType(I16, TURN)
# Halves (H) and quarters (Q) of a turn, and the 12 bytes of 32 codes of 3 bits.
I64H, I16H, I8H = (ir.VectorType(kind, TURN // 2) for kind in (ir.IntType(64), I16, I8))
I32Q, I8Q = ir.VectorType(I32, TURN // 4), ir.VectorType(I8, 12)
WIDTHS = (2, 3, 4, 8)


def every(kind: Any, value: float) -> Any:
    """A constant in every lane."""
    return ir.Constant(kind, [value] * kind.count)


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
        """The weights from an index on: the even ones, then the odd ones."""
        builder = self._builder
        both = builder.load(at(builder, data, index, I32T), align=2)
        if self._even:
            even = builder.shl(both, every(I32T, 16))
            odd = builder.and_(both, every(I32T, -0x10000))
            return [builder.bitcast(value, F32T) for value in (even, odd)]
        return [
            self.wide(builder.trunc(value, I16T))
            for value in (both, builder.lshr(both, every(I32T, 16)))
        ]

    def put(self, data: Any, index: Any, even: Any, odd: Any, bits: int) -> None:
        """Pack the codes of a pair into the row of packed codes `data`, as weights index, ...

        even, odd   float32: even + odd 2^bits is ROUND plus the field of two codes
        """
        builder = self._builder
        fields = builder.bitcast(added(builder, odd, every(F32T, 2.0**bits), even), I32T)
        home = _home(builder, data, index, bits)
        if bits == 8:
            packed = builder.trunc(fields, I16T)
        elif bits == 4:
            packed = builder.trunc(fields, I8T)
        else:
            wide = builder.bitcast(fields, I64H)
            low, high = every(I64H, (1 << 2 * bits) - 1), every(I64H, -(1 << 2 * bits))
            upper = builder.and_(builder.lshr(wide, every(I64H, 32 - 2 * bits)), high)
            wide = builder.or_(builder.and_(wide, low), upper)
            packed = builder.trunc(wide, I8H) if bits == 2 else _twelves(builder, wide)
        builder.store(packed, builder.bitcast(home, packed.type.as_pointer()), align=1)

    def codes(self, data: Any, index: Any, bits: int) -> list[Any]:
        """What put stored."""
        builder = self._builder
        home = _home(builder, data, index, bits)

        def load(kind: Any) -> Any:
            return builder.load(builder.bitcast(home, kind.as_pointer()), align=1)

        if bits == 8:
            fields = builder.zext(load(I16T), I32T)
        elif bits == 4:
            fields = builder.zext(load(I8T), I32T)
        else:
            wide = builder.zext(load(I8H), I64H) if bits == 2 else _sundered(builder, load(I8Q))
            wide = builder.or_(wide, builder.shl(wide, every(I64H, 32 - 2 * bits)))
            fields = builder.bitcast(wide, I32T)
        mask = every(I32T, (1 << bits) - 1)
        return [
            builder.and_(fields, mask),
            builder.and_(builder.lshr(fields, every(I32T, bits)), mask),
        ]


def _home(builder: Any, data: Any, index: Any, bits: int) -> Any:
    """Where codes from an index on are in a packed row; the index is a multiple of 8."""
    eighths = builder.lshr(index, index.type(3))
    return builder.gep(data, [builder.mul(eighths, index.type(bits))])


def _twelves(builder: Any, wide: Any) -> Any:
    """The lowest 12 bits of eight lanes, one after the other: 12 bytes."""
    pairs = builder.bitcast(builder.trunc(wide, I16H), I32Q)
    low = builder.and_(pairs, every(I32Q, 0xFFF))
    high = builder.and_(builder.lshr(pairs, every(I32Q, 4)), every(I32Q, 0xFFF000))
    spread = builder.bitcast(builder.or_(low, high), ir.VectorType(I8, TURN))
    return mixed(builder, spread, spread, [4 * lane + k for lane in range(4) for k in range(3)])


def _sundered(builder: Any, packed: Any) -> Any:
    """Undo _twelves: eight lanes of 64 bits."""
    nought = ir.Constant(packed.type, [0] * packed.type.count)
    last = packed.type.count
    spread = mixed(
        builder,
        packed,
        nought,
        [3 * lane + k if k < 3 else last for lane in range(4) for k in range(4)],
    )
    pairs = builder.bitcast(spread, I32Q)
    low = builder.and_(pairs, every(I32Q, 0xFFF))
    high = builder.and_(builder.shl(pairs, every(I32Q, 4)), every(I32Q, 0xFFF0000))
    return builder.zext(builder.bitcast(builder.or_(low, high), I16H), I64H)
