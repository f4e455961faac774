"""The best path of a row: spans of the forward pass in viterbi, and the way back."""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import Integer, inlined, kernel, uncounted
from kernels.viterbi import CLIP, GAIN_SHIFT, sweep

REACH = 32  # steps after which the beginning of the best path rarely changes: 0.01 dB against 16
SPAN = 256  # steps whose costs are kept: 512 KiB at 2 bits
FRESH = SPAN - REACH
FAR = 65535


@inlined
def _cost1(x: Integer, level: Integer, gain: Integer) -> Integer:
    """The cost of a difference as in viterbi; no gain where it is negative."""
    d = min(max(x - level, -32768), 32767)
    if gain >= 0:
        d = min(max((d * gain) >> 16, -CLIP), CLIP) << GAIN_SHIFT
    return (d * d) >> 16


@kernel
def _back(
    costs: NDArray[np.uint16],
    table: NDArray[np.int16],
    x: NDArray[np.int16],
    gains: NDArray[np.int16],
    node: int,
    start: int,
    stop: int,
    codes: NDArray[np.uint8],
) -> int:
    """Follow the best path into a node after step start - 1 back to step stop.

    codes   uint8 (>= start,) or (0,): the codes of these steps, written
    Result  the node before step stop
    """
    many, nodes = table.shape
    span = nodes // many
    for t in range(start - 1, stop - 1, -1):
        code, rest = node % many, node // many
        if codes.size > 0:
            codes[t] = np.uint8(code)
        before, levels, value = costs[t], table[code], np.int64(x[t])
        gain = np.int64(gains[t]) if gains.size > 0 else np.int64(-1)
        least = np.int64(1 << 30)
        for j in range(many):
            other = rest + j * span
            cost = np.int64(before[other]) + _cost1(value, np.int64(levels[other]), gain)
            cost = np.int64(min(cost, FAR))
            node = other if cost < least else node
            least = np.int64(min(cost, least))
    return node


@uncounted
def _best(costs: NDArray[np.uint16]) -> int:
    """The first node of least cost."""
    found = 0
    for node in range(costs.size):
        if costs[node] < costs[found]:
            found = node
    return found


@uncounted
def _only(node: int, costs: NDArray[np.uint16]) -> None:
    """Begin in a node."""
    for other in range(costs.size):
        costs[other] = FAR
    costs[node] = 0


@kernel
def _meeting(
    costs: NDArray[np.uint16],
    table: NDArray[np.int16],
    x: NDArray[np.int16],
    gains: NDArray[np.int16],
    joint: NDArray[np.int16],
) -> int:
    """The node in which a path over the last and first steps passes the end."""
    steps = x.size
    for i in range(2 * REACH):
        joint[0, i] = x[(steps - REACH + i) % steps]
        if gains.size > 0:
            joint[1, i] = gains[(steps - REACH + i) % steps]
    for node in range(costs.shape[1]):
        costs[0, node] = 0
    weights = joint[1, : 2 * REACH if gains.size > 0 else 0]
    sweep(costs, table, joint[0], weights, 0, 2 * REACH)
    nothing = np.zeros(0, np.uint8)
    best = _best(costs[2 * REACH])
    return _back(costs, table, joint[0], weights, best, 2 * REACH, REACH, nothing)


@kernel
def search(
    costs: NDArray[np.uint16],
    table: NDArray[np.int16],
    x: NDArray[np.int16],
    gains: NDArray[np.int16],
    joint: NDArray[np.int16],
    codes: NDArray[np.uint8],
) -> None:
    """Codes of a row.

    costs     uint16 (SPAN + 1, nodes), scratch
    table     see trelliscode.table_for
    x, gains  int16 (steps,), in the order of steps; gains (0,) if all count the same
    joint     int16 (2, 2 REACH), scratch
    codes     uint8 (steps,), written, in the order of steps
    """
    steps, t = x.size, 0
    ends = _meeting(costs, table, x, gains, joint)
    nothing = np.zeros(0, np.uint8)
    _only(ends, costs[0])
    while steps - t > SPAN:
        sweep(costs, table, x[t:], gains[t:], 0, SPAN)
        node = _back(costs, table, x[t:], gains[t:], _best(costs[SPAN]), SPAN, FRESH, nothing)
        _back(costs, table, x[t:], gains[t:], node, FRESH, 0, codes[t:])
        _only(node, costs[0])
        t += FRESH
    sweep(costs, table, x[t:], gains[t:], 0, steps - t)
    _back(costs, table, x[t:], gains[t:], ends, steps - t, 0, codes[t:])
