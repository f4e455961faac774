"""The forward pass of the Viterbi algorithm over the trellis of trelliscode, as instructions.

A path is known by the lower 12 - bits bits of its window: Q = 2^(12 - bits) nodes, each reached from
B = 2^bits nodes by as many windows. With A = Q / B, node q = a + j A goes by code k through the window
q B + k to node a B + k, so one vector of nodes q gives, for each code, a vector of windows, the
minimum over j is taken between whole vectors, and only its result is put in order:

    after[a B + k] = min over j of before[a + j A] + cost(x - table[k, a + j A])

Costs are unsigned integers of 16 bits, 32 to a register of 512 bits, and all sums stop at the ends
of 16 bits. No float is involved: the paths are the same on every processor. Which j was the best is
not kept: the costs of all steps are, and going back compares the B candidates of one node again. That
leaves three instructions for 32 windows (difference, square, sum), a minimum, and little else.

States across the register, not rows: the costs of one row and the table are 10 KiB and stay in the
first cache, where those of 32 rows would be 64 KiB for each of the steps to go back over.

Source: Viterbi, Error bounds for convolutional codes, 1967; Forney, The Viterbi algorithm, 1973.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types as numba_types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from kernels._jit import kernel
from kernels.trelliscode import WINDOW
from kernels.vectors import I32, arrays, at, splat, variable

types: Any = numba_types

WIDE = 32  # costs of a vector
SETTLE = 8  # steps after which the least cost is taken off all, so that none reaches the end
GAIN_SHIFT = 4  # gains are 16-bit fractions of 16
CLIP = 32767 >> GAIN_SHIFT
I16 = ir.IntType(16)
WORDS = ir.VectorType(I16, WIDE)
DOUBLES = ir.VectorType(I32, WIDE)


def _called(builder: Any, name: str, *values: Any) -> Any:
    """The result of an intrinsic of LLVM on vectors of one kind."""
    kind = values[0].type
    function = builder.module.declare_intrinsic(
        f"llvm.{name}.v{kind.count}i16", fnty=ir.FunctionType(kind, [kind] * len(values))
    )
    return builder.call(function, values)


def _high(builder: Any, a: Any, b: Any) -> Any:
    """The upper halves of the products of signed words: one instruction of x86-64."""
    product = builder.mul(builder.sext(a, DOUBLES), builder.sext(b, DOUBLES))
    return builder.trunc(builder.lshr(product, ir.Constant(DOUBLES, [16] * WIDE)), WORDS)


def _zipped(builder: Any, vectors: list[Any]) -> Any:
    """Lane 0 of all vectors, lane 1 of all, and so on."""
    if len(vectors) == 1:
        return vectors[0]
    even, odd = (_zipped(builder, vectors[first::2]) for first in (0, 1))
    lanes = even.type.count
    order = [lane + lanes * which for lane in range(lanes) for which in (0, 1)]
    mask = ir.Constant(ir.VectorType(I32, 2 * lanes), order)
    return builder.shuffle_vector(even, odd, mask)


def _part(builder: Any, vector: Any, start: int, count: int) -> Any:
    mask = ir.Constant(ir.VectorType(I32, count), list(range(start, start + count)))
    return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)


class _Step:
    """One weight: costs before it to costs after it."""

    def __init__(self, builder: Any, bits: int, table: Any, x: Any, gain: Any) -> None:
        self._builder, self._bits, self._table = builder, bits, table
        self._x, self._gain = x, gain
        self.nodes = 1 << (WINDOW - bits)
        self._span = self.nodes >> bits  # A

    def _cost(self, code: int, start: Any) -> Any:
        builder = self._builder
        place = builder.add(start, start.type(code * self.nodes))
        level = builder.load(at(builder, self._table, place, WORDS), align=2)
        d = _called(builder, "ssub.sat", self._x, level)
        if self._gain is not None:
            most, least, shift = (
                ir.Constant(WORDS, [number] * WIDE) for number in (CLIP, -CLIP, GAIN_SHIFT)
            )
            d = _called(builder, "smin", _high(builder, d, self._gain), most)
            d = builder.shl(_called(builder, "smax", d, least), shift)
        return _high(builder, d, d)

    def block(self, before: Any, after: Any, start: Any) -> None:
        """The nodes a from start, as many as a vector holds; all, where there are fewer."""
        builder, many = self._builder, 1 << self._bits
        stride = max(self._span, WIDE)
        starts = [builder.add(start, start.type(stride * j)) for j in range(self.nodes // stride)]
        costs = [builder.load(at(builder, before, s, WORDS), align=2) for s in starts]
        best = []
        for code in range(many):
            reached = [
                _called(builder, "uadd.sat", cost, self._cost(code, s))
                for cost, s in zip(costs, starts, strict=True)
            ]
            least = reached[0]
            for other in reached[1:]:
                least = _called(builder, "umin", least, other)
            while least.type.count > self._span:
                half = least.type.count // 2
                low, high = (_part(builder, least, first, half) for first in (0, half))
                least = _called(builder, "umin", low, high)
            best.append(least)
        result = _zipped(builder, best)
        place = builder.mul(start, start.type(many))
        builder.store(result, at(builder, after, place, result.type), align=2)

    def run(self, before: Any, after: Any) -> None:
        """All nodes."""
        size = ir.IntType(64)
        with cgutils.for_range_slice(
            self._builder, size(0), size(self._span), size(WIDE), inc=True
        ) as (start, _):
            self.block(before, after, start)


def _settle(builder: Any, costs: Any, nodes: int) -> None:
    """Take the least cost off all."""
    size = ir.IntType(64)
    least = variable(builder, ir.Constant(WORDS, [0xFFFF] * WIDE))
    bounds = (size(0), size(nodes), size(WIDE))
    with cgutils.for_range_slice(builder, *bounds, inc=True) as (start, _):
        cost = builder.load(at(builder, costs, start, WORDS), align=2)
        builder.store(_called(builder, "umin", builder.load(least), cost), least)
    folded = builder.load(least)
    while folded.type.count > 1:
        half = folded.type.count // 2
        low, high = (_part(builder, folded, first, half) for first in (0, half))
        folded = _called(builder, "umin", low, high)
    lowest = splat(builder, builder.extract_element(folded, I32(0)), WORDS)
    with cgutils.for_range_slice(builder, *bounds, inc=True) as (start, _):
        place = at(builder, costs, start, WORDS)
        builder.store(builder.sub(builder.load(place, align=2), lowest), place, align=2)


def _sweep(bits: int, weighted: bool) -> Any:
    nodes = 1 << (WINDOW - bits)

    def emit(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        costs, table, x, gains = arrays(context, builder, signature, args, 4)
        start, stop = args[4:6]
        size = start.type
        with cgutils.for_range_slice(builder, start, stop, size(1), inc=True) as (t, _):
            later = builder.add(t, size(1))
            before, after = (
                builder.gep(costs.data, [builder.mul(i, size(nodes))]) for i in (t, later)
            )
            value, gain = (
                splat(builder, builder.load(builder.gep(a.data, [t])), WORDS) for a in (x, gains)
            )
            _Step(builder, bits, table.data, value, gain if weighted else None).run(before, after)
            due = builder.icmp_signed("==", builder.and_(later, size(SETTLE - 1)), size(0))
            with builder.if_then(due, likely=False):
                _settle(builder, after, nodes)
        return context.get_dummy_value()

    return emit


def _sweep_type(bits: int, weighted: bool) -> Any:
    emit = _sweep(bits, weighted)

    def typed(
        typing: Any, costs: Any, table: Any, x: Any, gains: Any, start: Any, stop: Any
    ) -> Any:
        return types.void(costs, table, x, gains, types.intp, types.intp), emit

    return intrinsic(typed)


# sweep(costs, table, x, gains, start, stop): take steps start to stop - 1
#   costs   uint16 (> stop, Q): those before step t in row t, those after it in the next one
#   table   int16 (B, Q), see trelliscode.table_for
#   x       int16 (>= stop,), the weights in the order of the steps
#   gains   int16 (>= stop,), differences are multiplied by gain / 4096; not read by plain sweeps
Sweep = Callable[..., None]
sweep2, sweep3, sweep4 = (cast("Sweep", _sweep_type(bits, weighted=False)) for bits in (2, 3, 4))
weighted2, weighted3, weighted4 = (
    cast("Sweep", _sweep_type(bits, weighted=True)) for bits in (2, 3, 4)
)


@kernel
def sweep(
    costs: NDArray[np.uint16],
    table: NDArray[np.int16],
    x: NDArray[np.int16],
    gains: NDArray[np.int16],
    start: int,
    stop: int,
) -> None:
    """Take steps start to stop - 1; weighted where there are gains."""
    many = table.shape[0]
    if gains.size == 0:
        if many == 4:
            sweep2(costs, table, x, x, start, stop)
        elif many == 8:
            sweep3(costs, table, x, x, start, stop)
        else:
            sweep4(costs, table, x, x, start, stop)
    elif many == 4:
        weighted2(costs, table, x, gains, start, stop)
    elif many == 8:
        weighted3(costs, table, x, gains, start, stop)
    else:
        weighted4(costs, table, x, gains, start, stop)
