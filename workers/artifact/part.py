"""Writing one part: Arrow IPC framing, a digest of every byte, and an upload underneath."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from service.domain.catalog import ObjectInfo
from service.domain.ports import Upload
from service.domain.treatment import TensorPlan
from service.domain.units import Tile
from workers import counters
from workers.artifact.schema import PART_SCHEMA, StoredTile, tile_batch

_SMALL_BYTES: Final = 16 * 2**10
_GATHERED_BYTES: Final = 2**20
# Hashed and then passed on while the processor's own cache still has them.
_PIECE_BYTES: Final = 2**18


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
        self._sink.drain()
        return WrittenPart(self._sink.nbytes, self._sink.sha256.hexdigest(), self._batches)

    def publish(self) -> ObjectInfo:
        """Make the part visible under its key."""
        return self._upload.complete()

    def abort(self) -> None:
        """Leave nothing behind."""
        self._upload.abort()


class _DigestingSink(io.RawIOBase):
    """What pyarrow writes to: counts, hashes and passes on.

    Of a tile pyarrow writes one large piece or a few, as they lie in memory, and forty small ones
    between them. The small ones are gathered, so that each tile costs a handful of calls.
    """

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self._small = bytearray()
        self.sha256 = hashlib.sha256()
        self.nbytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type]
        if view.nbytes < _SMALL_BYTES:
            self._small += view
            if len(self._small) >= _GATHERED_BYTES:
                self.drain()
        else:
            self.drain()
            self._pass_on(view)
        return view.nbytes

    def drain(self) -> None:
        """Pass on what was gathered. Not `flush`, which a file that is forgotten calls too."""
        if self._small:
            small, self._small = self._small, bytearray()
            self._pass_on(memoryview(small))

    def _pass_on(self, view: memoryview) -> None:
        for start in range(0, view.nbytes, _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            self.sha256.update(piece)
            self._upload.write(piece)
        self.nbytes += view.nbytes
        counters.written_bytes.inc(view.nbytes)
