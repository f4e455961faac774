"""Writing one part: Arrow IPC framing, a digest of every byte, and an upload underneath."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass

import pyarrow as pa

from service.domain.catalog import ObjectInfo
from service.domain.ports import Upload
from service.domain.treatment import TensorPlan
from service.domain.units import Tile
from workers import counters
from workers.artifact.schema import PART_SCHEMA, StoredTile, tile_batch


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """A part whose bytes are all on their way; `info` once the store has it."""

    nbytes: int
    sha256: str
    batches: int


class PartWriter:
    """Streams tiles into an upload; memory is whatever the upload keeps in flight."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._sink = _DigestingSink(upload)
        self._writer = pa.ipc.new_file(self._sink, PART_SCHEMA)
        self._batches = 0

    def write(self, plan: TensorPlan, tile: Tile, stored: StoredTile) -> None:
        """Append one tile; its arrays may be reused when this returns."""
        self._writer.write_batch(tile_batch(plan, tile, stored))
        self._batches += 1

    def finish(self) -> WrittenPart:
        """Write the footer. Nothing is visible yet."""
        self._writer.close()
        return WrittenPart(self._sink.nbytes, self._sink.sha256.hexdigest(), self._batches)

    def publish(self) -> ObjectInfo:
        """Make the part visible under its key."""
        return self._upload.complete()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._upload.abort()


class _DigestingSink(io.RawIOBase):
    """What pyarrow writes to: counts, hashes and passes on."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self.sha256 = hashlib.sha256()
        self.nbytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        self.sha256.update(view)
        self._upload.write(view)
        self.nbytes += view.nbytes
        counters.written_bytes.inc(view.nbytes)
        return view.nbytes
