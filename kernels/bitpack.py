"""Codes of 2, 3, 4, 6 or 8 bits to a dense little-endian bit stream and back.

Code c of a row occupies bits [c * bits, (c + 1) * bits) of the row's bytes, least significant
bit first; every row starts on a byte and unused bits at its end are zero.

    8 bits   byte 0 = a7..a0
    4 bits   byte 0 = b3 b2 b1 b0 a3 a2 a1 a0
    3 bits   byte 0 = c1 c0 b2 b1 b0 a2 a1 a0
             byte 1 = f0 e2 e1 e0 d2 d1 d0 c2
             byte 2 = h2 h1 h0 g2 g1 g0 f2 f1
    2 bits   byte 0 = d1 d0 c1 c0 b1 b0 a1 a0
    6 bits   as 3 bits: bytes 0 to 2 hold codes a to d (scale codes of super-blocks only)

(a is code 0, b code 1, ...; most significant bit on the left.) Packing reads the codes, one per
byte, as wider little-endian words, which keeps the natural order and still vectorises:

    4 bits, one 16-bit word    0000bbbb 0000aaaa  ->  word | word >> 4, lower byte
    2 bits, one 32-bit word    word | word >> 6 | word >> 12 | word >> 18, lower byte
    3 bits, one 64-bit word    eight codes; neighbours merged three times, lower three bytes
"""

import numpy as np
from numpy.typing import NDArray

from kernels._jit import inlined, kernel


def row_bytes(cols: int, bits: int) -> int:
    """Bytes of one packed row of cols codes."""
    return (cols * bits + 7) // 8


@inlined
def _pack4(q: NDArray[np.uint16], out: NDArray[np.uint8]) -> None:
    for i in range(out.size):
        word = np.uint16(q[i])
        out[i] = np.uint8(word | (word >> 4))


@inlined
def _pack2(q: NDArray[np.uint32], out: NDArray[np.uint8]) -> None:
    for i in range(out.size):
        word = np.uint32(q[i])
        out[i] = np.uint8(word | (word >> 6) | (word >> 12) | (word >> 18))


@inlined
def _pack3(q: NDArray[np.uint64], out: NDArray[np.uint8]) -> None:
    size = out.size
    for i in range((size + 2) // 3):
        word = q[i]
        word = (word | (word >> np.uint64(5))) & np.uint64(0x003F003F003F003F)
        word = (word | (word >> np.uint64(10))) & np.uint64(0x00000FFF00000FFF)
        word = word | (word >> np.uint64(20))
        for byte in range(min(3, size - 3 * i)):
            out[3 * i + byte] = np.uint8((word >> np.uint64(8 * byte)) & np.uint64(0xFF))


@inlined
def _pack6(q: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    size = out.size
    for i in range((size + 2) // 3):
        word = np.uint32(0)
        for j in range(4):
            word |= np.uint32(q[4 * i + j]) << np.uint32(6 * j)
        for byte in range(min(3, size - 3 * i)):
            out[3 * i + byte] = np.uint8((word >> np.uint32(8 * byte)) & np.uint32(0xFF))


@inlined
def pack_row(q: NDArray[np.uint8], bits: int, out: NDArray[np.uint8]) -> None:
    """Pack one row.

    q       uint8 (>= cols rounded up to 8,), codes in 0 .. 2^bits - 1, zero beyond cols
    out     uint8 (ceil(cols * bits / 8),), written in full
    """
    if bits == 4:
        _pack4(q.view(np.uint16), out)
    elif bits == 2:
        _pack2(q.view(np.uint32), out)
    elif bits == 3:
        _pack3(q.view(np.uint64), out)
    elif bits == 6:
        _pack6(q, out)
    else:
        for i in range(out.size):  # a slice assignment takes seconds to compile
            out[i] = q[i]


@kernel
def unpack_row(packed: NDArray[np.uint8], bits: int, q: NDArray[np.uint8]) -> None:
    """Undo pack_row.

    packed  uint8 (ceil(cols * bits / 8),)
    q       uint8 (cols,), written in full
    """
    cols = q.size
    if bits == 8:
        for c in range(cols):
            q[c] = packed[c]
    elif bits == 4:
        for i in range(cols // 2):
            q[2 * i] = packed[i] & 0xF
            q[2 * i + 1] = packed[i] >> 4
        if cols % 2:
            q[cols - 1] = packed[cols // 2] & 0xF
    elif bits == 2:
        for i in range(cols // 4):
            for j in range(4):
                q[4 * i + j] = (packed[i] >> (2 * j)) & 0x3
        for c in range(cols // 4 * 4, cols):
            q[c] = (packed[c // 4] >> (2 * (c % 4))) & 0x3
    else:
        last = packed.size - 1
        for c in range(cols):
            byte = (c * bits) >> 3
            word = np.int64(packed[byte]) | (np.int64(packed[min(byte + 1, last)]) << 8)
            q[c] = (word >> ((c * bits) & 7)) & ((1 << bits) - 1)


@kernel
def _pack_rows(q: NDArray[np.uint8], bits: int, out: NDArray[np.uint8]) -> None:
    rows, cols = q.shape
    padded = np.zeros((cols + 7) // 8 * 8, np.uint8)
    for r in range(rows):
        for c in range(cols):
            padded[c] = q[r, c]
        pack_row(padded, bits, out[r])


@kernel
def _unpack_rows(packed: NDArray[np.uint8], bits: int, q: NDArray[np.uint8]) -> None:
    for r in range(q.shape[0]):
        unpack_row(packed[r], bits, q[r])


def pack(q: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Pack codes (rows, cols), each in 0 .. 2^bits - 1, to uint8 (rows, ceil(cols * bits / 8))."""
    out = np.empty((q.shape[0], row_bytes(q.shape[1], bits)), np.uint8)
    _pack_rows(q, bits, out)
    return out


def unpack(packed: NDArray[np.uint8], bits: int, cols: int) -> NDArray[np.uint8]:
    """Undo pack: codes uint8 (rows, cols) from packed rows (rows, ceil(cols * bits / 8))."""
    out = np.empty((packed.shape[0], cols), np.uint8)
    _unpack_rows(packed, bits, out)
    return out
