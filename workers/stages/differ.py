"""Holding the tiles of a part that is being made against those of one that is stored.

The stored one may be anybody's: Arrow reads of it only what was found to be uncompressed, plain and no
larger than a tile can be. The rest is told as unreadable.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from arrowquant.artifact.envelope import Envelope
from arrowquant.errors import ArtifactError
from service.domain.catalog import ObjectInfo
from service.domain.ports import ObjectStore
from service.domain.treatment import TensorPlan
from service.domain.units import Tile
from workers.artifact.part import PartWriter
from workers.artifact.schema import PART_SCHEMA, StoredTile, tile_batch
from workers.stages.ranged import Ranged
from workers.stages.scratch import Discarded

_SLACK: Final = 2**20


class Differ(PartWriter):
    """Takes the place of a part's writer and notes which tiles differ, and in what.

    found  {"tensor", "tile_index", "row_start", "differs": columns, "code_bytes": how many}; after
           an unreadable tile the rest of the part is noted as unreadable too
    """

    def __init__(self, store: ObjectStore, info: ObjectInfo, found: list[dict[str, Any]]) -> None:
        super().__init__(Discarded(info.key))
        self._found = found
        self._number = 0
        self._stored = _Stored.opened(store, info)

    def write(self, plan: TensorPlan, tile: Tile, stored: StoredTile) -> None:
        mine = tile_batch(plan, tile, stored)
        theirs = self._next(_most_bytes(plan, tile))
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

    def _next(self, most: int) -> pa.RecordBatch | None:
        number, self._number = self._number, self._number + 1
        return None if self._stored is None else self._stored.batch(number, most)


class _Stored:
    """A stored part whose outside and schema are those of this format."""

    def __init__(self, envelope: Envelope, reader: pa.RecordBatchFileReader) -> None:
        self._envelope, self._reader = envelope, reader

    @classmethod
    def opened(cls, store: ObjectStore, info: ObjectInfo) -> _Stored | None:
        """None for what is no such part."""
        file = Ranged(store, info)
        try:
            envelope = Envelope(file, info.size, {})
            reader = pa.ipc.open_file(pa.PythonFile(file, mode="r"))
        except (ArtifactError, pa.ArrowException, OSError, ValueError):
            return None
        return cls(envelope, reader) if reader.schema.equals(PART_SCHEMA) else None

    def batch(self, number: int, most: int) -> pa.RecordBatch | None:
        """A batch; None where there is none, or none that may be read into `most` bytes."""
        try:
            if number >= self._envelope.batches or self._envelope.check(number) > most:
                return None
            batch = self._reader.get_batch(number)
            batch.validate(full=True)
        except (ArtifactError, pa.ArrowException, OSError, ValueError):
            return None
        return batch


def _most_bytes(plan: TensorPlan, tile: Tile) -> int:
    """As much as this tile could take in any codec, even with a scale for every weight."""
    return 4 * tile.rows * plan.row_bytes + _SLACK


def _columns(mine: pa.RecordBatch, theirs: pa.RecordBatch) -> list[str]:
    return [name for name in mine.schema.names if not mine.column(name).equals(theirs.column(name))]


def _differing_bytes(mine: pa.RecordBatch, theirs: pa.RecordBatch) -> int:
    one, other = (
        np.frombuffer(batch.column("codes")[0].as_buffer(), np.uint8) for batch in (mine, theirs)
    )
    shared = min(one.size, other.size)
    return int(np.count_nonzero(one[:shared] != other[:shared])) + abs(one.size - other.size)
