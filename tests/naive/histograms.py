"""The squared error of an activation quantizer on a histogram, by going through each bin in small steps."""

import numpy as np


def squared_error(edges, counts, low, high, scale, zero, bits, steps=4000):
    """Sum of squared errors with every bin's values spread evenly between its ends."""
    top = 2**bits - 1
    total = 0.0
    for b, count in enumerate(counts):
        if count == 0:
            continue
        e0 = low if b == 0 else min(max(edges[b], low), high)
        e1 = high if b == len(counts) - 1 else min(max(edges[b + 1], low), high)
        x = e0 + (e1 - e0) * (np.arange(steps) + 0.5) / steps
        q = np.clip(np.rint(x / scale) + zero, 0, top)
        total += count * float(np.mean((x - scale * (q - zero)) ** 2))
    return total


def cuts(times, runs):
    """Every way to cut times 0 .. times - 1 into runs that are not empty."""
    if runs == 1:
        return [(0, times)]
    return [(*before, times) for last in range(runs - 1, times) for before in cuts(last, runs - 1)]
