"""Min-max quantization of 16-bit weights in whole groups, at the speed of memory.

The same bytes as rows.quantize_rows makes without a search. A row is gone through in spans of about
SPAN weights, which stay in the nearest cache through all phases: range of each group, scales and
rules of sixteen groups at a time, codes packed as they are made and error sums. The phases are in settle and spans; rows
with groups that are not of the ordinary kind described there (a constant group, say) are left to rows.

Error sums. With e = w - v, sums of w^2, e^2 and w e are taken in float32 over SHORT weights, sixteen
lanes, then in float64; the others follow: sum w v = sum w^2 - sum w e and sum v^2 = sum w^2 - 2 sum
w e + sum e^2. The largest |e| is looked for only in groups whose step allows one beyond the largest
that the block has seen: few do.

What bounds it: of the ports that take vectors of 512 bits there are two. Per 16 weights the encoder has
11 instructions for them (widen 1, codes 3, error 2, sums 3, pack 1, store 1), which is 5.5 cycles;
ranges and scales have 2 to 3 more in groups of 64. From memory, a thread waits on top of that for what
fetching ahead does not hide.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel, uncounted
from kernels.encode import LEAST, MOST, Scratch, scratch_for
from kernels.fidelity import E2, MAX, Q2, W2, WQ
from kernels.lanes import fold_short
from kernels.lsq import FITS
from kernels.rows import quantize_each
from kernels.settle import (
    BOUND,
    COUNT,
    RULES,
    extremes,
    settle_bf16,
    settle_bf16_symmetric,
    settle_f16,
    settle_f16_symmetric,
)
from kernels.spans import (
    encode_bf16,
    encode_bf16_symmetric,
    encode_f16,
    encode_f16_symmetric,
    largest_bf16,
    largest_f16,
)
from kernels.stored import TILE
from kernels.vectors import TURN
from kernels.widen import BF16, F32, padded

SPAN = 2048  # weights in the nearest cache at a time
AHEAD = 2 * SPAN  # weights from what is encoded to what is fetched meanwhile
SHORT = 1024  # weights whose errors are added up in float32


def whole(kind: int, cols: int, group: int) -> bool:
    """Whether rows of so many columns are for this module."""
    return kind != F32 and group % TILE == 0 and cols % group == 0


@inlined
def _settled(
    kind: int,
    symmetric: bool,
    found: NDArray[np.int16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    rules: NDArray[np.float32],
    place: Integer,
    zero: np.float32,
    top: np.float32,
) -> tuple[bool, np.float32]:
    """settle.settle of a kind."""
    stride = rules.shape[1]
    if kind == BF16:
        if symmetric:
            return settle_bf16_symmetric(found, scales, mins, rules, place, stride, zero, top)
        return settle_bf16(found, scales, mins, rules, place, stride, zero, top)
    if symmetric:
        return settle_f16_symmetric(found, scales, mins, rules, place, stride, zero, top)
    return settle_f16(found, scales, mins, rules, place, stride, zero, top)


@inlined
def _encode(
    kind: int,
    symmetric: bool,
    x: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    rules: NDArray[np.float32],
    sums: NDArray[np.float32],
    start: Integer,
    turns: Integer,
    first: Integer,
    count: Integer,
    bits: int,
    zero: np.float32,
    top: np.float32,
) -> None:
    """spans.encode_span of a kind."""
    n = rules.shape[1]
    if kind == BF16:
        if symmetric:
            encode_bf16_symmetric(
                x, codes, rules, sums, start, turns, first, count, n, AHEAD, bits, zero, top
            )
        else:
            encode_bf16(
                x, codes, rules, sums, start, turns, first, count, n, AHEAD, bits, zero, top
            )
    elif symmetric:
        encode_f16_symmetric(
            x, codes, rules, sums, start, turns, first, count, n, AHEAD, bits, zero, top
        )
    else:
        encode_f16(x, codes, rules, sums, start, turns, first, count, n, AHEAD, bits, zero, top)


@inlined
def _ranges(
    x: NDArray[np.uint16],
    kind: int,
    group: int,
    symmetric: bool,
    start: Integer,
    count: Integer,
    found: NDArray[np.int16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    rules: NDArray[np.float32],
    zero: np.float32,
    top: np.float32,
) -> np.float32:
    """Settle count groups from start on; the largest BOUND, or -1 if one is not ordinary."""
    for g in range(count):
        extremes(x, found, start + g * group, group // TILE, g)
    for g in range(count, (count + COUNT - 1) // COUNT * COUNT):
        extremes(x, found, start, group // TILE, g)
    widest = np.float32(0.0)
    for place in range(0, count, COUNT):
        fits, bound = _settled(kind, symmetric, found, scales, mins, rules, place, zero, top)
        if not fits:
            return np.float32(-1.0)
        widest = max(widest, bound)
    return widest


@inlined
def _codes(
    x: NDArray[np.uint16],
    kind: int,
    group: int,
    symmetric: bool,
    start: Integer,
    count: Integer,
    rules: NDArray[np.float32],
    short: NDArray[np.float32],
    totals: NDArray[np.float64],
    codes: NDArray[np.uint8],
    bits: int,
    zero: np.float32,
    top: np.float32,
) -> None:
    """Encode count groups, with their error sums."""
    if group > SHORT:
        for g in range(count):
            for part in range(0, group, SHORT):
                turns, place = min(SHORT, group - part) // TILE, start + g * group + part
                _encode(
                    kind, symmetric, x, codes, rules, short, place, turns, g, 1, bits, zero, top
                )
                fold_short(short, totals)
        return
    step = SHORT // group
    for g in range(0, count, step):
        some, place = min(step, count - g), start + g * group
        _encode(
            kind, symmetric, x, codes, rules, short, place, group // TILE, g, some, bits, zero, top
        )
        fold_short(short, totals)


@inlined
def _largest(
    x: NDArray[np.uint16],
    kind: int,
    group: int,
    start: Integer,
    count: Integer,
    rules: NDArray[np.float32],
    codes: NDArray[np.uint8],
    bits: int,
    zero: np.float32,
    most: np.float32,
) -> np.float32:
    """The largest |e| of count groups, or most if that is larger."""
    turns, n = group // TILE, rules.shape[1]
    for g in range(count):
        if rules[BOUND, g] > most:
            place = start + g * group
            if kind == BF16:
                most = max(most, largest_bf16(x, codes, rules, place, turns, g, n, bits, zero))
            else:
                most = max(most, largest_f16(x, codes, rules, place, turns, g, n, bits, zero))
    return most


@inlined
def _total(totals: NDArray[np.float64], most: np.float32, sums: NDArray[np.float64]) -> bool:
    """Write sums (COLUMNS,) from lanes (3, TURN); whether float32 could hold them."""
    w2, e2, we = 0.0, 0.0, 0.0
    for lane in range(TURN):
        w2 += totals[0, lane]
        e2 += totals[1, lane]
        we += totals[2, lane]
    sums[W2], sums[E2], sums[WQ] = w2, e2, w2 - we
    sums[Q2], sums[MAX] = w2 - 2.0 * we + e2, np.float64(most)
    return LEAST < w2 < MOST and e2 < MOST


@uncounted
def _nearest_row(
    x: NDArray[np.uint16],
    kind: int,
    bits: int,
    group: int,
    symmetric: bool,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    sums: NDArray[np.float64],
    found: NDArray[np.int16],
    halves: NDArray[np.uint16],
    rules: NDArray[np.float32],
    short: NDArray[np.float32],
    totals: NDArray[np.float64],
    most: np.float32,
) -> bool:
    """One row; most is the largest |e| so far. Result: whether all of its groups are ordinary."""
    zero = np.float32((1 << (bits - 1)) if symmetric else 0)
    top = np.float32((1 << bits) - 1)
    for lane in range(TURN):
        totals[0, lane] = totals[1, lane] = totals[2, lane] = 0.0
    per, groups = halves.shape[1], scales.size
    for first in range(0, groups, per):
        count, start = min(per, groups - first), first * group
        widest = _ranges(
            x, kind, group, symmetric, start, count, found, halves[0], halves[1], rules, zero, top
        )
        if widest < 0:
            return False
        for g in range(count):
            scales[first + g] = halves[0, g]
        if mins.size > 0:
            for g in range(count):
                mins[first + g] = halves[1, g]
        _codes(
            x, kind, group, symmetric, start, count, rules, short, totals, codes, bits, zero, top
        )
        if widest > most:
            most = _largest(x, kind, group, start, count, rules, codes, bits, zero, most)
    return _total(totals, most, sums)


@kernel
def quantize_rows_nearest(
    x: NDArray[np.uint16],
    kind: int,
    bits: int,
    group: int,
    symmetric: bool,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    sums: NDArray[np.float64],
) -> int:
    """rows.quantize_rows without search, correction and importances, for what is whole.

    Of sums, column MAX has the largest |e| of this and earlier rows.
    """
    cols, groups = x.shape[1], scales.shape[1]
    per = min(max(SPAN // group // COUNT, 1) * COUNT, (groups + COUNT - 1) // COUNT * COUNT)
    found = np.empty(per * TILE, np.int16)
    rules, halves = np.empty((RULES, per), np.float32), np.empty((2, per), np.uint16)
    short, totals = np.zeros((4, TURN), np.float32), np.zeros((3, TURN), np.float64)
    w = np.zeros(padded(cols), np.float32)[:cols]
    image = np.zeros(padded(cols), np.float32)[:cols]
    q = np.zeros(padded(cols), np.uint8)
    fits, pair = np.empty((FITS, groups), np.float64), np.empty((2, groups), np.uint16)
    ranges, slopes = np.empty((2, groups), np.float32), np.empty(0, np.float32)
    scratch = scratch_for(groups)
    weighted = np.empty((x.shape[0], 0), np.float64)
    return _each(
        x, kind, bits, group, symmetric, codes, scales, mins, sums, found, halves, rules, q, short,
        totals, w, image, fits, pair, ranges, slopes, weighted, scratch,
    )  # fmt: skip


@uncounted
def _each(
    x: NDArray[np.uint16],
    kind: int,
    bits: int,
    group: int,
    symmetric: bool,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    sums: NDArray[np.float64],
    found: NDArray[np.int16],
    halves: NDArray[np.uint16],
    rules: NDArray[np.float32],
    q: NDArray[np.uint8],
    short: NDArray[np.float32],
    totals: NDArray[np.float64],
    w: NDArray[np.float32],
    image: NDArray[np.float32],
    fits: NDArray[np.float64],
    pair: NDArray[np.uint16],
    ranges: NDArray[np.float32],
    slopes: NDArray[np.float32],
    weighted: NDArray[np.float64],
    scratch: Scratch,
) -> int:
    """quantize_rows_nearest with its arrays."""
    cols, most = x.shape[1], np.float32(0.0)
    for r in range(x.shape[0]):
        if not _nearest_row(
            x[r], kind, bits, group, symmetric, codes[r], scales[r], mins[r], sums[r], found,
            halves, rules, short, totals, most,
        ):  # fmt: skip
            position = quantize_each(
                x[r : r + 1], kind, bits, group, symmetric, slopes, None, 0.0, codes[r : r + 1],
                scales[r : r + 1], mins[r : r + 1], sums[r : r + 1], weighted[r : r + 1], w, image,
                q, ranges[0], ranges[1], pair[0], pair[1], fits, pair, scratch,
            )  # fmt: skip
            if position >= 0:
                return int(r * cols + position)
        most = max(most, np.float32(sums[r, MAX]))
    return -1
