"""Holding the tiles of a part that is being made against those of one that is stored."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa

from service.domain.catalog import ObjectInfo
from service.domain.ports import ObjectStore
from service.domain.treatment import TensorPlan
from service.domain.units import Tile
from workers.artifact.part import PartWriter
from workers.artifact.schema import PART_SCHEMA, StoredTile, tile_batch
from workers.stages.scratch import Discarded


class Differ(PartWriter):
    """Takes the place of a part's writer and notes which tiles differ, and in what.

    found  {"tensor", "tile_index", "row_start", "differs": columns, "code_bytes": how many}; after
           an unreadable tile the rest of the part is noted as unreadable too
    """

    def __init__(self, store: ObjectStore, info: ObjectInfo, found: list[dict[str, Any]]) -> None:
        super().__init__(Discarded(info.key))
        self._found = found
        self._number = 0
        self._stored = _opened(store, info)

    def write(self, plan: TensorPlan, tile: Tile, stored: StoredTile) -> None:
        mine = tile_batch(plan, tile, stored)
        theirs = self._next()
        super().write(plan, tile, stored)
        differs = ["unreadable"] if theirs is None else _columns(mine, theirs)
        if differs:
            entry = {
                "tensor": plan.name,
                "tile_index": tile.tile_index,
                "row_start": tile.row_start,
            }
            count = 0 if theirs is None else _differing_bytes(mine, theirs)
            self._found.append(entry | {"differs": differs, "code_bytes": count})

    def _next(self) -> pa.RecordBatch | None:
        number, self._number = self._number, self._number + 1
        if self._stored is None or number >= self._stored.num_record_batches:
            return None
        try:
            batch = self._stored.get_batch(number)
            batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError):
            return None
        return batch if batch.num_rows == 1 else None


class _Ranged(io.RawIOBase):
    """An object of a store as a file that is only read."""

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store, self._info, self._at = store, info, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, (0, self._at, self._info.size)[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._info.size if size < 0 else min(self._info.size, self._at + size)
        if stop <= self._at:
            return b""
        data = self._store.read(self._info.key, self._at, stop, self._info.etag)
        self._at += len(data)
        return data


def _opened(store: ObjectStore, info: ObjectInfo) -> pa.RecordBatchFileReader | None:
    """The stored part, if it is one: another schema could hold anything."""
    try:
        reader = pa.ipc.open_file(pa.PythonFile(_Ranged(store, info), mode="r"))
    except (pa.ArrowException, OSError, ValueError):
        return None
    return reader if reader.schema.equals(PART_SCHEMA) else None


def _columns(mine: pa.RecordBatch, theirs: pa.RecordBatch) -> list[str]:
    return [name for name in mine.schema.names if not mine.column(name).equals(theirs.column(name))]


def _differing_bytes(mine: pa.RecordBatch, theirs: pa.RecordBatch) -> int:
    one, other = (
        np.frombuffer(batch.column("codes")[0].as_buffer(), np.uint8) for batch in (mine, theirs)
    )
    shared = min(one.size, other.size)
    return int(np.count_nonzero(one[:shared] != other[:shared])) + abs(one.size - other.size)
