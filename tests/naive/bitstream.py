"""Codes as one long little-endian number per row, bit by bit."""

import numpy as np


def pack(codes, bits):
    rows, cols = codes.shape
    size = (cols * bits + 7) // 8
    out = np.zeros((rows, size), np.uint8)
    for r in range(rows):
        number = sum(int(code) << (c * bits) for c, code in enumerate(codes[r]))
        out[r] = np.frombuffer(number.to_bytes(size, "little"), np.uint8)
    return out


def unpack(packed, bits, cols):
    out = np.zeros((packed.shape[0], cols), np.uint8)
    for r, row in enumerate(packed):
        number = int.from_bytes(row.tobytes(), "little")
        for c in range(cols):
            out[r, c] = (number >> (c * bits)) & (2**bits - 1)
    return out
