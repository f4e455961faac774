"""One tensor of an artifact: what is known of it, and its values on request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from arrowquant.artifact import codecs, decode, schema
from arrowquant.artifact.manifest import TensorEntry, invalid
from arrowquant.artifact.tile import Tile

RAW_BLOCK_BYTES = 2**20


class StoredTile(NamedTuple):
    """Rows of a tensor as they are stored: views of the mapped file, nothing copied.

    codes   uint8 (rows, row stride)
    scales  float16, row by row, or None for a raw tensor
    mins    float16, or None where the codec has none
    """

    row_start: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16] | None
    mins: NDArray[np.float16] | None


class QuantizedTensor:
    """A tensor of an artifact. Its attributes come from the manifest; `dequantize` reads."""

    __slots__ = ("_entry", "_read")

    def __init__(self, entry: TensorEntry, read: Callable[[TensorEntry], tuple[Tile, ...]]) -> None:
        self._entry = entry
        self._read = read

    @property
    def name(self) -> str:
        return self._entry.name

    @property
    def shape(self) -> tuple[int, ...]:
        return self._entry.shape

    @property
    def dtype(self) -> str:
        """The original dtype as safetensors writes it: F32, F16, BF16, I64..."""
        return self._entry.dtype

    @property
    def codec(self) -> str:
        """How its codes are to be read, or raw; see docs/artifact-format.md."""
        return self._entry.codec

    @property
    def bits(self) -> int:
        """Width of a code; 0 for a raw tensor."""
        return self._entry.bits

    @property
    def group_size(self) -> int:
        """Weights that share a scale; 0: a whole row; -1: the whole tensor."""
        return self._entry.group_size

    @property
    def role(self) -> str:
        return self._entry.role

    @property
    def state(self) -> str:
        """DONE, KEPT, FALLBACK or TIED."""
        return self._entry.state

    @property
    def reason(self) -> str:
        """Why it is stored as it is."""
        return self._entry.reason

    @property
    def tied_to(self) -> str | None:
        """The tensor whose bytes this name shares."""
        return self._entry.tied_to

    @property
    def elements(self) -> int:
        return self._entry.elements

    @property
    def nbytes(self) -> int:
        """Bytes in the original dtype."""
        return self._entry.nbytes

    @property
    def stored_bytes(self) -> int:
        """Bytes of codes, scales and minima; 0 for a tied name, which stores nothing."""
        return 0 if self.tied_to else sum(tile.stored_bytes for tile in self.stored())

    def __repr__(self) -> str:
        how = f"{self.codec} {self.bits} bits" if self.bits else "raw"
        return f"<QuantizedTensor {self.name!r} {list(self.shape)} {self.dtype}, {how}>"

    def stored(self) -> tuple[Tile, ...]:
        """The tiles with all their fields."""
        return self._read(self._entry)

    def col_scale(self) -> NDArray[np.float32] | None:
        """What the columns were multiplied by, float32 (cols of the matrix,), if it is the same for all rows: a runtime
        may then divide the layer's input by it instead of dividing the weights. Else None."""
        found = [tile.col_scale for tile in self.stored()]
        if not found or found[0] is None:
            return None
        first = found[0]
        same = all(each is not None and np.array_equal(each, first) for each in found)
        return first.copy() if same else None

    def bias_correction(self) -> NDArray[np.float32] | None:
        """What is to be added to the bias of the layer, float32 (rows of the matrix,): what its mean
        output lost in quantization. None where nothing was stored."""
        found = [tile.bias_correction for tile in self.stored()]
        if not found or any(part is None for part in found):
            return None
        return np.concatenate([part for part in found if part is not None])

    def tiles(self) -> Iterator[StoredTile]:
        """(row_start, codes, scales, mins) of every tile in row order, without copying."""
        for tile in self.stored():
            yield StoredTile(tile.row_start, tile.codes, tile.scales, tile.mins)

    def dequantize(
        self, dtype: DTypeLike | str | None = None, out: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """The whole tensor in its original shape.

        dtype  float32 (default for quantized tensors and BF16), float16, float64, or "bfloat16",
               which gives the bit patterns as uint16. It applies to floating-point tensors:
               integers and booleans keep their own type, and so do 8-bit floats, whose bytes are
               given as uint8. Types narrower than a byte are given as the stored bytes, flat.
        out    a C-contiguous array of that shape and type to fill
        """
        kind = _result_dtype(self._entry, dtype)
        sub_byte = schema.DTYPE_BITS[self.dtype] < 8
        shape = (self.nbytes,) if sub_byte else self.shape
        if out is None:
            try:
                out = np.empty(shape, kind)
            except (ValueError, MemoryError) as error:
                raise invalid(f"no array of shape {shape}: {error}", tensor=self.name) from None
        elif out.shape != shape or out.dtype != kind or not out.flags.c_contiguous:
            raise ValueError(
                f"out must be a C-contiguous {kind} array of shape {shape}, "
                f"not {out.dtype} {out.shape}"
            )
        flat, position = out.reshape(-1), 0
        for block in self.blocks(dtype):
            flat[position : position + block.size] = block
            position += block.size
        return out

    def blocks(self, dtype: DTypeLike | str | None = None) -> Iterator[NDArray[Any]]:
        """The values as consecutive flat arrays of about a megabyte, in memory order.

        Each array is valid until the next one is asked for.
        """
        kind = _result_dtype(self._entry, dtype)
        if self.codec != "raw":
            for weights in weight_blocks(self.stored()):
                yield _convert(weights, kind)
        else:
            for values in _raw_values(self.stored(), self.dtype):
                if self.dtype == "BF16" and kind != np.uint16:
                    yield _convert(decode.from_bfloat16(values), kind)
                else:
                    yield values if self.dtype == "BF16" else _convert(values, kind)


def weight_blocks(tiles: tuple[Tile, ...]) -> Iterator[NDArray[np.float32]]:
    """Quantized tiles decoded, about a megabyte at a time, each block over the one before."""
    scratch = np.empty(0, np.float32)
    for tile in tiles:
        for start, stop in decode.blocks(tile.rows, tile.cols):
            size = (stop - start) * tile.cols
            if scratch.size < size:
                scratch = np.empty(size, np.float32)
            block = scratch[:size]
            codecs.decode_rows(tile, start, stop, block.reshape(stop - start, tile.cols))
            yield block


def _raw_values(tiles: tuple[Tile, ...], dtype: str) -> Iterator[NDArray[Any]]:
    kind = np.dtype(schema.NUMPY_DTYPE.get(dtype, "u1"))
    for tile in tiles:
        data = tile.codes.reshape(-1)
        for start in range(0, data.size, RAW_BLOCK_BYTES):
            yield data[start : start + RAW_BLOCK_BYTES].view(kind)


def _result_dtype(entry: TensorEntry, dtype: DTypeLike | str | None) -> np.dtype[Any]:
    if entry.dtype not in schema.FLOATS:
        return np.dtype(schema.NUMPY_DTYPE.get(entry.dtype, "u1"))
    if dtype is None:
        own = entry.codec == "raw" and entry.dtype != "BF16"
        return np.dtype(schema.NUMPY_DTYPE[entry.dtype] if own else np.float32)
    if isinstance(dtype, str) and dtype.lower() in ("bfloat16", "bf16"):
        return np.dtype(np.uint16)
    kind = np.dtype(dtype)
    if kind not in (np.float16, np.float32, np.float64):
        raise ValueError(f"dtype must be float32, float16, float64 or 'bfloat16', not {kind}")
    return kind


def _convert(values: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """To a floating-point type, rounding to nearest even; uint16 stands for bfloat16."""
    if values.dtype == kind:
        return values
    with np.errstate(over="ignore"):  # beyond the range of float16 is infinity
        if kind == np.uint16 and values.dtype.kind == "f":
            return decode.to_bfloat16(values.astype(np.float32, copy=False))
        return values.astype(kind)
