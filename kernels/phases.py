"""The phases of nearest that depend on the kind of weights: see settle and spans."""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined
from kernels.settle import settle_bf16, settle_bf16_symmetric, settle_f16, settle_f16_symmetric
from kernels.spans import encode_bf16, encode_bf16_symmetric, encode_f16, encode_f16_symmetric
from kernels.widen import BF16

SPAN = 1024  # weights in the nearest cache at a time
AHEAD = 6 * SPAN  # weights from what is encoded to what is fetched meanwhile


@inlined
def settled(
    kind: int,
    symmetric: bool,
    found: NDArray[np.int16],
    scales: NDArray[np.uint16],
    mins: NDArray[np.uint16],
    rules: NDArray[np.float32],
    place: Integer,
    into: Integer,
    zero: np.float32,
    top: np.float32,
) -> tuple[bool, np.float32]:
    """settle.settle."""
    stride = rules.shape[1]
    if kind == BF16:
        if symmetric:
            return settle_bf16_symmetric(found, scales, mins, rules, place, into, stride, zero, top)
        return settle_bf16(found, scales, mins, rules, place, into, stride, zero, top)
    if symmetric:
        return settle_f16_symmetric(found, scales, mins, rules, place, into, stride, zero, top)
    return settle_f16(found, scales, mins, rules, place, into, stride, zero, top)


@inlined
def encoded(
    kind: int,
    symmetric: bool,
    x: NDArray[np.uint16],
    codes: NDArray[np.uint8],
    rules: NDArray[np.float32],
    sums: NDArray[np.float32],
    found: NDArray[np.int16],
    start: Integer,
    row: Integer,
    turns: Integer,
    first: Integer,
    count: Integer,
    after: Integer,
    last: Integer,
    group: int,
    resume: Integer,
    bits: int,
    zero: np.float32,
    top: np.float32,
) -> Integer:
    """spans.encode_span."""
    n = rules.shape[1]
    if kind == BF16:
        if symmetric:
            return encode_bf16_symmetric(
                x, codes, rules, sums, found, start, row, turns, first, count, after, last, group,
                resume, n, AHEAD, bits, zero, top,
            )  # fmt: skip
        else:
            return encode_bf16(
                x, codes, rules, sums, found, start, row, turns, first, count, after, last, group,
                resume, n, AHEAD, bits, zero, top,
            )  # fmt: skip
    elif symmetric:
        return encode_f16_symmetric(
            x, codes, rules, sums, found, start, row, turns, first, count, after, last, group,
            resume, n, AHEAD, bits, zero, top,
        )  # fmt: skip
    else:
        return encode_f16(
            x, codes, rules, sums, found, start, row, turns, first, count, after, last, group,
            resume, n, AHEAD, bits, zero, top,
        )  # fmt: skip
