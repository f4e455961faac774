"""Tensors as they are stored, made by a second, independent hand.

Nothing here uses the reader's code: codes are packed bit by bit, values decoded one at a time by the
formulae of the format page, so that a mistake in one is not repeated in the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import google_crc32c
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

ROTATION = pa.struct([("kind", pa.string()), ("block", pa.int32()), ("seed", pa.int64())])
SCHEMA = pa.schema(
    [
        pa.field("tensor", pa.string(), False),
        pa.field("tile_index", pa.int32(), False),
        pa.field("row_start", pa.int64(), False),
        pa.field("rows", pa.int64(), False),
        pa.field("cols", pa.int64(), False),
        pa.field("shape", pa.list_(pa.int64()), False),
        pa.field("orig_dtype", pa.string(), False),
        pa.field("role", pa.string(), False),
        pa.field("codec", pa.string(), False),
        pa.field("bits", pa.int16(), False),
        pa.field("group_size", pa.int32(), False),
        pa.field("bit_order", pa.string(), False),
        pa.field("row_stride_bytes", pa.int64(), False),
        pa.field("codes", pa.large_binary(), False),
        pa.field("scales", pa.large_list(pa.float16())),
        pa.field("mins", pa.large_list(pa.float16())),
        pa.field("relmse", pa.float32()),
        pa.field("crc32c", pa.uint32(), False),
        pa.field("scale_bits", pa.int16()),
        pa.field("scale_codes", pa.large_binary()),
        pa.field("min_codes", pa.large_binary()),
        pa.field("codebook", pa.list_(pa.float32())),
        pa.field("rotation", ROTATION),
        pa.field("col_scale", pa.large_list(pa.float32())),
        pa.field("bias_correction", pa.large_list(pa.float32())),
        pa.field("rho", pa.float32()),
    ],
    metadata={"arrowquant.format": "2"},
)
#: Columns that a tile need not have.
NULLABLE = [field.name for field in SCHEMA if field.nullable]

WIDTH = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1}
WIDTH |= {"F8_E4M3": 1}


@dataclass
class Stored:
    """A tensor to store: its tiles, and what a reader must find."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    codec: str
    bits: int = 0
    group_size: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    expected: NDArray[Any] | None = None  #: default dequantization
    source: NDArray[Any] | None = None  #: what was quantized, in float32 or its own type
    role: str = "linear"


def pack(codes: NDArray[np.int64], bits: int) -> bytes:
    """LSB-first dense bit stream per row, one bit at a time."""
    out = bytearray()
    for row in codes:
        stream = sum(int(code) << (c * bits) for c, code in enumerate(row))
        out += stream.to_bytes((len(row) * bits + 7) // 8, "little")
    return bytes(out)


def decode_naive(
    codes: NDArray[np.int64],
    scales: NDArray[np.float16],
    mins: NDArray[np.float16] | None,
    bits: int,
    group_size: int,
) -> NDArray[np.float32]:
    """The formula of the format page, one weight at a time."""
    rows, cols = codes.shape
    groups = -(-cols // group_size) if group_size > 0 else 1
    out = np.empty((rows, cols), np.float32)
    for r in range(rows):
        for c in range(cols):
            index = 0
            if group_size >= 0:
                index = r * groups + (c // group_size if group_size else 0)
            q = int(codes[r, c])
            scale = np.float32(scales[index])
            if mins is None:
                out[r, c] = scale * np.float32(q - (1 << (bits - 1)))
            else:
                out[r, c] = np.float32(scale * np.float32(q)) + np.float32(mins[index])
    return out


def tile_row(tensor: Stored, index: int, start: int, rows: int, cols: int, **values: Any) -> None:
    """Append a tile; `values` gives stride, codes, scales, mins."""
    tensor.rows.append(
        {
            "tensor": tensor.name,
            "tile_index": index,
            "row_start": start,
            "rows": rows,
            "cols": cols,
            "shape": list(tensor.shape),
            "orig_dtype": tensor.dtype,
            "role": tensor.role,
            "codec": tensor.codec,
            "bits": tensor.bits,
            "group_size": tensor.group_size,
            "bit_order": "" if tensor.codec == "raw" else "lsb0_dense_row",
            "crc32c": google_crc32c.value(values["codes"]),
            **dict.fromkeys(NULLABLE),
            **values,
        }
    )


def quantized(
    name: str,
    shape: tuple[int, ...],
    codec: str,
    bits: int,
    group_size: int,
    *,
    dtype: str = "F32",
    tile_rows: int | None = None,
    seed: int = 0,
    role: str = "linear",
) -> Stored:
    """A tensor of random codes and scales; the source is the decoded value plus a little noise."""
    rng = np.random.default_rng(seed)
    rows = shape[0]
    cols = int(np.prod(shape[1:]))
    tensor = Stored(name, shape, dtype, codec, bits, group_size, role=role)
    step = tile_rows or rows
    expected = []
    for index, start in enumerate(range(0, rows, step)):
        count = min(step, rows - start)
        codes = rng.integers(0, 1 << bits, (count, cols))
        size = 1 if group_size == -1 else count * (-(-cols // group_size) if group_size else 1)
        scales = rng.uniform(0.01, 0.2, size).astype(np.float16)
        mins = rng.uniform(-1, 0, size).astype(np.float16) if codec == "affine_u" else None
        expected.append(decode_naive(codes, scales, mins, bits, group_size))
        tile_row(
            tensor,
            index,
            start,
            count,
            cols,
            row_stride_bytes=(cols * bits + 7) // 8,
            codes=pack(codes, bits),
            scales=scales,
            mins=mins,
            relmse=0.001,
        )
    values = np.concatenate(expected).reshape(shape)
    tensor.expected = values
    tensor.source = values + rng.normal(0, 0.01, shape).astype(np.float32)
    return tensor


def superblock(
    name: str,
    shape: tuple[int, int],
    bits: int,
    group_size: int,
    scale_bits: int,
    *,
    tile_rows: int | None = None,
    seed: int = 0,
) -> Stored:
    """A tensor of random codes with two levels of scales."""
    rng = np.random.default_rng(seed)
    rows, cols = shape
    groups, blocks = -(-cols // group_size), -(-cols // 256)
    tensor = Stored(name, shape, "F32", "superblock", bits, group_size)
    expected = []
    for index, start in enumerate(range(0, rows, tile_rows or rows)):
        count = min(tile_rows or rows, rows - start)
        codes = rng.integers(0, 1 << bits, (count, cols))
        scale_codes, min_codes = rng.integers(0, 1 << scale_bits, (2, count, groups))
        steps, mins = rng.uniform(-0.3, 0.3, (2, count, blocks)).astype(np.float16)
        decoded = np.empty((count, cols), np.float32)
        for r in range(count):
            for c in range(cols):
                g, b = c // group_size, c // 256
                s = float(steps[r, b]) * int(scale_codes[r, g]) / 2 ** (scale_bits + DIGITS[bits])
                centre = int(min_codes[r, g]) - 2 ** (scale_bits - 1)
                m = float(mins[r, b]) * centre / 2 ** (scale_bits - 1)
                decoded[r, c] = np.float32(s * LEVELS[bits][codes[r, c]] + m)
        expected.append(decoded)
        tile_row(
            tensor,
            index,
            start,
            count,
            cols,
            row_stride_bytes=(cols * bits + 7) // 8,
            codes=pack(codes, bits),
            scales=steps.ravel(),
            mins=mins.ravel(),
            scale_bits=scale_bits,
            scale_codes=pack(scale_codes, scale_bits),
            min_codes=pack(min_codes, scale_bits),
            relmse=0.001,
        )
    tensor.expected = np.concatenate(expected)
    tensor.source = tensor.expected + rng.normal(0, 0.01, shape).astype(np.float32)
    return tensor


def codebook(name: str, shape: tuple[int, int], bits: int, group_size: int, seed: int) -> Stored:
    """A tensor whose codes stand for levels drawn at random."""
    rng = np.random.default_rng(seed)
    rows, cols = shape
    groups = -(-cols // group_size) if group_size else 1
    codes = rng.integers(0, 1 << bits, shape)
    levels = np.sort(rng.normal(size=1 << bits)).astype(np.float32)
    scales = rng.uniform(0.01, 0.2, rows * groups).astype(np.float16)
    tensor = Stored(name, shape, "F32", "codebook", bits, group_size)
    tensor.expected = np.empty(shape, np.float32)
    for r in range(rows):
        for c in range(cols):
            scale = scales[r * groups + (c // group_size if group_size else 0)]
            tensor.expected[r, c] = np.float32(scale) * levels[codes[r, c]]
    stride = (cols * bits + 7) // 8
    packed = pack(codes, bits)
    tile_row(
        tensor, 0, 0, rows, cols, row_stride_bytes=stride, codes=packed, scales=scales,
        codebook=levels, relmse=0.001,
    )  # fmt: skip
    tensor.source = tensor.expected + rng.normal(0, 0.01, shape).astype(np.float32)
    return tensor


def trellis(name: str, shape: tuple[int, int], bits: int, seed: int) -> Stored:
    """A tensor of random windows, read bit by bit around the circle of each row."""
    rng = np.random.default_rng(seed)
    rows, cols = shape
    whole = {2: 8, 3: 24, 4: 8}[bits]
    length = -(-max(cols * bits, 12) // whole) * whole
    stream = rng.integers(0, 2, (rows, length))
    scales = rng.uniform(0.01, 0.2, rows).astype(np.float16)
    tensor = Stored(name, shape, "F32", "trellis", bits)
    tensor.expected = np.empty(shape, np.float32)
    for r in range(rows):
        for c in range(cols):
            window = sum(int(stream[r, (c * bits + i) % length]) << i for i in range(12))
            tensor.expected[r, c] = np.float32(scales[r]) * np.float32(_level(window, bits) / 1024)
    tile_row(
        tensor, 0, 0, rows, cols, row_stride_bytes=length // 8, codes=pack(stream, 1),
        scales=scales, relmse=0.001,
    )  # fmt: skip
    tensor.source = tensor.expected + rng.normal(0, 0.01, shape).astype(np.float32)
    return tensor


def _level(window: int, bits: int) -> int:
    factor, u = {2: 0xC52, 3: 0xE29, 4: 0xDEE}[bits], 0
    for i in range(12):
        u ^= factor if window >> i & 1 else 0
        factor = factor << 1 if factor < 2048 else factor << 1 ^ 0x1053
    p = (2 * u + 1) / 8192
    return round(5517 * (p**0.125 - (1 - p) ** 0.125))


# What the page says of super-blocks: levels by code, and the power of two above the largest.
LEVELS = {
    2: [-7, -2, 2, 7],
    3: [-45, -29, -16, -5, 5, 16, 29, 45],
    4: [-127, -104, -84, -65, -49, -34, -20, -7, 7, 20, 34, 49, 65, 84, 104, 127],
}
DIGITS = {2: 3, 3: 6, 4: 7}


def turned(tensor: Stored, block: int, seed: int, factors: NDArray[np.float32] | None) -> Stored:
    """The same tensor as if its rows had been rotated, and its columns multiplied before.

    Butterflies are done one by one; that they are the matrix of the page is checked beside it.
    """
    assert tensor.expected is not None
    cols = int(np.prod(tensor.shape[1:]))
    at = np.arange(block)
    ones = np.array([[int(i & j).bit_count() for j in at] for i in at])
    matrix = np.kron(np.eye(cols // block), (-1.0) ** ones / np.sqrt(block))
    signs = np.array([_sign(seed, c) for c in range(cols)])
    flat = tensor.expected.reshape(-1, cols)
    values = np.array([_butterflies(row, block) for row in flat], np.float32)
    values = values * signs.astype(np.float32) * np.float32(block**-0.5)
    np.testing.assert_allclose(values, flat.astype(np.float64) @ matrix * signs, atol=1e-5)
    for row in tensor.rows:
        row["rotation"] = {"kind": "hadamard", "block": block, "seed": seed}
        row["col_scale"] = factors
    values = values if factors is None else values / factors
    tensor.expected = values.reshape(tensor.shape)
    noise = np.random.default_rng(0).normal(0, 0.01, tensor.shape)
    tensor.source = tensor.expected + noise.astype(np.float32)
    return tensor


def _butterflies(row: NDArray[np.float32], block: int) -> list[np.float32]:
    values = list(row)
    distance = 1
    while distance < block:
        for i in range(len(values)):
            if not i // distance % 2:
                x, y = values[i], values[i + distance]
                values[i], values[i + distance] = x + y, x - y
        distance *= 2
    return values


def _sign(seed: int, col: int) -> int:
    mask = 2**64 - 1
    z = (seed + (col + 1) * 0x9E3779B97F4A7C15) & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return -1 if (z ^ z >> 31) >> 63 else 1


def raw(
    name: str,
    values: NDArray[Any],
    dtype: str,
    *,
    expected: NDArray[Any] | None = None,
    tile_rows: int | None = None,
    role: str = "norm",
) -> Stored:
    """A tensor stored as its own bytes."""
    tensor = Stored(name, values.shape, dtype, "raw", role=role)
    rows = values.shape[0] if values.shape else 1
    flat = np.ascontiguousarray(values).reshape(rows, -1) if values.size else values
    cols = flat.shape[1] if values.size else 0
    step = tile_rows or max(rows, 1)
    for index, start in enumerate(range(0, max(rows, 1), step)):
        block = flat[start : start + step]
        tile_row(
            tensor,
            index,
            start,
            len(block) if values.size else 0,
            cols,
            row_stride_bytes=cols * WIDTH[dtype],
            codes=block.tobytes(),
        )
    tensor.expected = values if expected is None else expected
    tensor.source = values
    return tensor


def bf16(values: NDArray[np.float32]) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Truncated bfloat16 patterns and the values they stand for."""
    bits = (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)
