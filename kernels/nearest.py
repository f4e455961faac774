"""Min-max quantization of 16-bit weights in whole groups, at the speed of memory.

The same bytes as rows.quantize_rows makes without a search. A row is gone through in spans of about
SPAN weights, which stay in the nearest cache through all phases: range of each group, scales and
rules of sixteen groups at a time, codes packed as they are made and error sums. The phases are in settle
and spans; rows with groups that are not of the ordinary kind described there (a constant group, say) are
left to rows.

Three spans are under way at a time. One is encoded; the next one has been settled, so that nothing
waits for the two divisions of a rule; the one after is ranged by the loop that encodes, so that what is
fetched ahead, for a later one still, is fetched all the time. The spans of the next row follow.

Error sums. With e = w - v, sums of w^2, e^2 and w e are taken in float32 over SHORT weights, sixteen
lanes, then in float64; the others follow: sum w v = sum w^2 - sum w e and sum v^2 = sum w^2 - 2 sum
w e + sum e^2. The largest |e| is looked for only in groups whose step allows one beyond the largest
that the block has seen: few do.

What bounds it: of the ports that take vectors of 512 bits there are two. Per 32 weights of BF16 the
encoder has 23 operations for them (widen 2, codes 6, errors 4, sums 6, pack 3, ranges 2), which is 11.5
cycles. What is done once for a group is on top: it counts most in groups of 32. So is what fetching
ahead does not hide.
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel, uncounted
from kernels.encode import LEAST, MOST, Scratch, scratch_for
from kernels.fidelity import E2, MAX, Q2, W2, WQ
from kernels.lanes import fold_short
from kernels.lsq import FITS
from kernels.rows import quantize_each
from kernels.settle import BOUND, COUNT, RULES, extremes, settle
from kernels.spans import encode_span, largest_error
from kernels.stored import TILE
from kernels.vectors import TURN
from kernels.widen import F32, padded

SPAN = 1024  # weights in the nearest cache at a time
AHEAD = 6 * SPAN  # weights from what is encoded to what is fetched meanwhile
LINE = 64  # bytes of the cache, and of a vector
SHORT = 1024  # weights whose errors are added up in float32


@kernel
def _lines(size: int) -> NDArray[np.uint8]:
    """So many bytes, zero, from the start of a cache line on: vectors that lie in two take twice as long."""
    room = np.zeros(size + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    return room[start : start + size]


def whole(kind: int, cols: int, group: int) -> bool:
    """Whether rows of so many columns are for this module."""
    return kind != F32 and group % TILE == 0 and cols % group == 0


@inlined
def _ranges(
    x: NDArray[np.uint16],
    kind: int,
    group: int,
    symmetric: bool,
    start: Integer,
    count: Integer,
    known: Integer,
    found: NDArray[np.int16],
    halves: NDArray[np.uint16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    first: Integer,
    rules: NDArray[np.float32],
    zero: np.float32,
    top: np.float32,
) -> np.float32:
    """Settle count groups from start on, which are those from `first` on in their row.

    known   of them that have been ranged
    Result  the largest BOUND, or -1 if one is not ordinary
    """
    for g in range(known, count):
        extremes(x, found, start + g * group, group // TILE, g)
    for g in range(max(known, count), (count + COUNT - 1) // COUNT * COUNT):
        extremes(x, found, start, group // TILE, g)
    widest, n = np.float32(0.0), rules.shape[1]
    whole = count // COUNT * COUNT
    for place in range(0, whole, COUNT):
        fits, bound = settle(
            kind, symmetric, found, scales, mins, rules, place, first + place, n, zero, top
        )
        if not fits:
            return np.float32(-1.0)
        widest = max(widest, bound)
    if whole < count:
        fits, bound = settle(
            kind, symmetric, found, halves[0], halves[1], rules, whole, 0, n, zero, top
        )
        if not fits:
            return np.float32(-1.0)
        widest = max(widest, bound)
        for g in range(count - whole):
            scales[first + whole + g] = halves[0, g]
        if not symmetric:
            for g in range(count - whole):
                mins[first + whole + g] = halves[1, g]
    return widest


@inlined
def _codes(
    x: NDArray[np.uint16],
    kind: int,
    group: int,
    symmetric: bool,
    start: Integer,
    row: Integer,
    count: Integer,
    after: Integer,
    last: Integer,
    rules: NDArray[np.float32],
    found: NDArray[np.int16],
    short: NDArray[np.float32],
    totals: NDArray[np.float64],
    codes: NDArray[np.uint8],
    bits: int,
    zero: np.float32,
    top: np.float32,
) -> Integer:
    """Encode count groups, with their error sums, and range as many from `after` on, up to the last.

    Result  how many were ranged, see spans
    """
    ranged: Integer = np.int64(0)
    n = rules.shape[1]
    if group > SHORT:
        for g in range(count):
            some: Integer = np.int64(0)
            for part in range(0, group, SHORT):
                turns = min(SHORT, group - part) // TILE
                some = encode_span(
                    kind, symmetric, x, codes, rules, short, found, start + g * group + part, row,
                    turns, g, 1, after + part, last, group, part, n, AHEAD, bits, zero, top,
                )  # fmt: skip
                fold_short(short, totals)
            ranged += some
        return ranged
    step = SHORT // group
    for g in range(0, count, step):
        ranged += encode_span(
            kind, symmetric, x, codes, rules, short, found, start + g * group, row, group // TILE,
            g, min(step, count - g), after, last, group, 0, n, AHEAD, bits, zero, top,
        )  # fmt: skip
        fold_short(short, totals)
    return ranged


@inlined
def _largest(
    x: NDArray[np.uint16],
    kind: int,
    group: int,
    start: Integer,
    row: Integer,
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
            found = largest_error(kind, x, codes, rules, place, row, turns, g, n, bits, zero)
            most = max(most, found)
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
    row: Integer,
    kind: int,
    bits: int,
    group: int,
    symmetric: bool,
    codes: NDArray[np.uint8],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    sums: NDArray[np.float64],
    known: NDArray[np.int64],
    found: NDArray[np.int16],
    halves: NDArray[np.uint16],
    rules: NDArray[np.float32],
    short: NDArray[np.float32],
    totals: NDArray[np.float64],
    most: np.float32,
) -> bool:
    """One row, of x from `row` on; most is the largest |e| so far.

    known   groups whose ranges are in found: of its spans 0 and 1; then, of those of the next row
    Result  whether all of its groups are ordinary
    """
    zero = np.float32((1 << (bits - 1)) if symmetric else 0)
    top = np.float32((1 << bits) - 1)
    for lane in range(TURN):
        totals[0, lane] = totals[1, lane] = totals[2, lane] = 0.0
    per, groups = rules.shape[2], scales.size
    spans, last = (groups + per - 1) // per, row + groups * group == x.size
    widest = wider = np.float32(0.0)
    for span in range(spans + 1):
        if span < spans:
            first, side = span * per, span % 2
            wider = _ranges(
                x, kind, group, symmetric, row + first * group, min(per, groups - first),
                known[side], found[side], halves, scales, mins, first, rules[side], zero, top,
            )  # fmt: skip
            if wider < 0:
                return False
        if span > 0:
            first, side = (span - 1) * per, (span - 1) % 2
            count, start = min(per, groups - first), row + first * group
            # What is ranged meanwhile: the span after the one just settled, or one of the next row.
            later, base = span + 1, row
            if later >= spans:
                later, base = min(later - spans, spans - 1), row + groups * group
            there, coming = later % 2, min(per, groups - later * per)
            after = base + later * per * group
            if last and base > row:  # there is no next row: once more, in vain
                after, coming = start, count
            known[there] = _codes(
                x, kind, group, symmetric, start, row, count, after, coming - 1, rules[side],
                found[there], short, totals, codes, bits, zero, top,
            )  # fmt: skip
            if widest > most:
                most = _largest(
                    x, kind, group, start, row, count, rules[side], codes, bits, zero, most
                )
        widest = wider
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
    found = _lines(2 * 2 * per * TILE).view(np.int16).reshape(2, per * TILE)
    rules = _lines(2 * 4 * RULES * per).view(np.float32).reshape(2, RULES, per)
    short = _lines(4 * 4 * TURN).view(np.float32).reshape(4, TURN)
    totals = _lines(3 * 8 * TURN).view(np.float64).reshape(3, TURN)
    halves, known = np.empty((2, COUNT), np.uint16), np.zeros(2, np.int64)
    w = np.zeros(padded(cols), np.float32)[:cols]
    image = np.zeros(padded(cols), np.float32)[:cols]
    q = np.zeros(padded(cols), np.uint8)
    fits, pair = np.empty((FITS, groups), np.float64), np.empty((2, groups), np.uint16)
    ranges, slopes = np.empty((2, groups), np.float32), np.empty(0, np.float32)
    scratch = scratch_for(groups)
    weighted = np.empty((x.shape[0], 0), np.float64)
    return _each(
        x, kind, bits, group, symmetric, codes, scales, mins, sums, known, found, halves, rules, q,
        short, totals, w, image, fits, pair, ranges, slopes, weighted, scratch,
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
    known: NDArray[np.int64],
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
    flat = x.reshape(-1)
    for r in range(x.shape[0]):
        if not _nearest_row(
            flat, r * cols, kind, bits, group, symmetric, codes[r], scales[r], mins[r], sums[r],
            known, found, halves, rules, short, totals, most,
        ):  # fmt: skip
            known[0] = known[1] = 0
            position = quantize_each(
                x[r : r + 1], kind, bits, group, symmetric, slopes, None, 0.0, codes[r : r + 1],
                scales[r : r + 1], mins[r : r + 1], sums[r : r + 1], weighted[r : r + 1], w, image,
                q, ranges[0], ranges[1], pair[0], pair[1], fits, pair, scratch,
            )  # fmt: skip
            if position >= 0:
                return int(r * cols + position)
        most = max(most, np.float32(sums[r, MAX]))
    return -1
