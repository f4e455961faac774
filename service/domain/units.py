"""How the work is cut: units for workers, tiles for memory.

Everything here is a function of sizes alone, so that equal sources are cut equally everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

TILE_BYTES = 8 * 2**20
MAX_ROW_BYTES = 64 * 2**20
MIN_UNIT_BYTES = 16 * 2**20
MAX_UNIT_BYTES = 256 * 2**20
UNITS_PER_JOB = 16


class Rows(Protocol):
    """What cutting needs to know of a tensor."""

    @property
    def index(self) -> int: ...

    @property
    def rows(self) -> int: ...

    @property
    def row_bytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows [row_start, row_stop) of a tensor."""

    tensor: int
    row_start: int
    row_stop: int


@dataclass(frozen=True, slots=True)
class Tile:
    """The rows of a tensor that are in memory at once: one row of an Arrow part."""

    tensor: int
    tile_index: int
    row_start: int
    rows: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What one worker takes at a time; it writes `part-{seq:05d}.arrow`."""

    seq: int
    pieces: tuple[Piece, ...]
    source_bytes: int


def tiles_of(tensor: Rows, piece: Piece) -> Iterator[Tile]:
    """Cut a piece into tiles of about TILE_BYTES; piece borders are tile borders."""
    step = rows_per_tile(tensor)
    if tensor.rows == 0:
        yield Tile(tensor.index, 0, 0, 0)
        return
    for start in range(piece.row_start, piece.row_stop, step):
        yield Tile(tensor.index, start // step, start, min(step, piece.row_stop - start))


def whole(tensor: Rows) -> Piece:
    """All rows of a tensor."""
    return Piece(tensor.index, 0, tensor.rows)


def rows_per_tile(tensor: Rows) -> int:
    """Rows of a full tile of this tensor."""
    return max(1, TILE_BYTES // tensor.row_bytes) if tensor.row_bytes else 1


def unit_bytes(total: int) -> int:
    """Source bytes of a unit: enough units to share, each large enough to stream."""
    return min(MAX_UNIT_BYTES, max(MIN_UNIT_BYTES, total // UNITS_PER_JOB))


def cut_units(tensors: Iterable[Rows]) -> Iterator[Unit]:
    """Units in source order; a tensor larger than a unit is cut at tile borders."""
    stored = list(tensors)
    target = unit_bytes(sum(tensor.rows * tensor.row_bytes for tensor in stored))
    seq, size = 0, 0
    pieces: list[Piece] = []
    for tensor in stored:
        for piece in _pieces(tensor, target):
            nbytes = (piece.row_stop - piece.row_start) * tensor.row_bytes
            if pieces and size + nbytes > target:
                yield Unit(seq, tuple(pieces), size)
                seq, pieces, size = seq + 1, [], 0
            pieces.append(piece)
            size += nbytes
    if pieces:
        yield Unit(seq, tuple(pieces), size)


def _pieces(tensor: Rows, target: int) -> Iterator[Piece]:
    if tensor.rows * tensor.row_bytes <= target:
        yield Piece(tensor.index, 0, tensor.rows)
        return
    step = rows_per_tile(tensor)
    rows = max(step, target // tensor.row_bytes // step * step)
    for start in range(0, tensor.rows, rows):
        yield Piece(tensor.index, start, min(start + rows, tensor.rows))
