"""Trellis codes by the written rules: windows cut out of bits, whole tables of costs in NumPy."""

import numpy as np

FACTORS = {2: 0b110001010010, 3: 0b111000101001, 4: 0b110111101110}
WHOLE = {2: 4, 3: 8, 4: 2}
REACH, SPAN = 32, 256


def times(a, b):
    """The product of two polynomials over GF(2), modulo x^12 + x^6 + x^4 + x + 1."""
    product = 0
    for power in range(12):
        if b >> power & 1:
            product ^= a << power
    for power in range(22, 11, -1):
        if product >> power & 1:
            product ^= 0b1000001010011 << (power - 12)
    return product


def levels(bits):
    found = []
    for window in range(4096):
        p = (2 * times(FACTORS[bits], window) + 1) / 8192
        found.append(round(5517 * (p**0.125 - (1 - p) ** 0.125)))
    return np.array(found)


def count(cols, bits):
    """Codes of a row."""
    return -(-max(cols, -(-12 // bits)) // WHOLE[bits]) * WHOLE[bits]


def windows(packed, bits, cols):
    """Windows (rows, cols) of packed codes."""
    stream = np.unpackbits(packed, axis=1, bitorder="little")
    places = np.arange(cols)[:, None] * bits + np.arange(12)
    return stream[:, places % stream.shape[1]] @ (1 << np.arange(12))


def decode(packed, scales, bits, cols):
    level = levels(bits)[windows(packed, bits, cols)].astype(np.float32) / np.float32(1024)
    return scales.astype(np.float32)[:, None] * level


def scaled(w, steps):
    """Weights as integers in the order of steps: last code first."""
    x = np.zeros(steps)
    w = w.astype(np.float64)
    energy = np.cumsum(w * w)[-1]
    gain = 0.96 * 8192 / np.sqrt(energy / w.size) if energy > 0 else 0.0
    x[: w.size] = np.clip(np.floor(w * gain + 0.5), -32767, 32767)
    return x[::-1].astype(np.int64)


def gains(h, bits, steps):
    if h is None or not h.sum() > 0:
        return None
    h = h.astype(np.float64)
    root = np.sqrt(h / (np.cumsum(h)[-1] / h.size))
    g = np.zeros(steps)
    g[: h.size] = np.minimum(np.floor((4096 if bits == 2 else 8192) * root + 0.5), 32767)
    return g[::-1].astype(np.int64)


def cost(x, level, gain):
    d = np.clip(x - level, -32768, 32767)
    if gain is not None:
        d = np.clip(d * gain >> 16, -2047, 2047) * 16
    return d * d >> 16


class Trellis:
    def __init__(self, bits):
        self.bits, self.many, self.nodes = bits, 1 << bits, 4096 >> bits
        self.levels = 8 * levels(bits)

    def path(self, before, x, gain, end=None):
        """Nodes before each step and after the last; the best path, or the best that ends there."""
        came = []
        costs = before
        for t in range(x.size):
            every = np.repeat(costs, self.many) + cost(
                x[t], self.levels, None if gain is None else gain[t]
            )
            every = np.minimum(every, 65535).reshape(self.many, self.nodes)
            came.append(every.argmin(0))
            costs = every.min(0)
            if t % 8 == 7:
                costs = costs - costs.min()
        nodes = [int(costs.argmin()) if end is None else end]
        for choice in came[::-1]:
            node = nodes[-1]
            nodes.append((int(choice[node]) * self.nodes + node) >> self.bits)
        return nodes[::-1]

    def only(self, node):
        costs = np.full(self.nodes, 65535)
        costs[node] = 0
        return costs

    def codes(self, w, h=None):
        """Codes of a row."""
        steps = count(w.size, self.bits)
        x, gain = scaled(w, steps), gains(h, self.bits, steps)
        around = np.arange(steps - REACH, steps + REACH) % steps
        end = self.path(
            np.zeros(self.nodes, int), x[around], None if gain is None else gain[around]
        )[REACH]
        node, found, t = end, [], 0
        while steps - t > SPAN:
            part = slice(t, t + SPAN)
            nodes = self.path(self.only(node), x[part], None if gain is None else gain[part])
            found += nodes[1 : SPAN - REACH + 1]
            node, t = nodes[SPAN - REACH], t + SPAN - REACH
        found += self.path(self.only(node), x[t:], None if gain is None else gain[t:], end)[1:]
        return np.array([node % self.many for node in found], np.uint8)[::-1]
