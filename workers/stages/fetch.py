"""Reading tiles ahead of the kernels, into buffers that are used again and again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from service import logs
from service.domain.catalog import Catalog
from service.domain.ports import ObjectStore
from service.domain.treatment import TensorPlan
from service.domain.units import Tile
from workers import counters
from workers.stages import clock
from workers.stages.buffers import SPARE

_WIDTH = {"F32": np.float32, "F16": np.uint16, "BF16": np.uint16}


@dataclass(frozen=True, slots=True)
class FetchedTile:
    """The source bytes of a tile, in a borrowed buffer."""

    tile: Tile
    data: npt.NDArray[np.uint8]
    buffer: npt.NDArray[np.uint8]

    def matrix(self, tensor: TensorPlan) -> npt.NDArray[np.generic]:
        """(rows, cols) of float32, or of uint16 bit patterns for F16 and BF16."""
        typed = self.data.view(_WIDTH[tensor.source.dtype])
        return typed.reshape(self.tile.rows, tensor.cols)


def read_tile(
    store: ObjectStore,
    catalog: Catalog,
    tensor: TensorPlan,
    tile: Tile,
    buffer: npt.NDArray[np.uint8],
) -> npt.NDArray[np.uint8]:
    """Fill the front of `buffer` with a tile's bytes and return that part of it."""
    nbytes = tile.rows * tensor.row_bytes
    data = buffer[:nbytes]
    if nbytes:
        source = catalog.objects[tensor.source.object]
        start = tensor.source.start + tile.row_start * tensor.row_bytes
        store.readinto(source.key, start, data.data, source.etag)
    return data


class Prefetcher:
    """Tiles in order, read by one thread while earlier ones are at work.

    `buffers` of `buffer_bytes` each are all the memory there is: the reader waits until one is
    given back with `release`.
    """

    def __init__(
        self,
        store: ObjectStore,
        catalog: Catalog,
        tiles: Iterable[tuple[TensorPlan, Tile]],
        buffers: int,
        buffer_bytes: int,
        stages: clock.Stages,
    ) -> None:
        self._store, self._catalog, self._tiles, self._stages = store, catalog, tiles, stages
        self._free: queue.SimpleQueue[npt.NDArray[np.uint8] | None] = queue.SimpleQueue()
        self._buffers = SPARE.take(buffers, buffer_bytes)
        for buffer in self._buffers:
            self._free.put(buffer)
        self._ready: queue.SimpleQueue[FetchedTile | BaseException | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(
            target=logs.in_context(self._run), name="fetch", daemon=True
        )
        self._thread.start()

    def __iter__(self) -> Iterator[FetchedTile]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def release(self, fetched: FetchedTile) -> None:
        """The tile's bytes are no longer needed."""
        self._free.put(fetched.buffer)

    def close(self) -> None:
        """Stop reading; waits for a read that is under way. Nobody may still have a tile."""
        self._closed = True
        self._free.put(None)
        self._thread.join()
        SPARE.give(self._buffers)
        self._buffers = []

    def _run(self) -> None:
        try:
            for tensor, tile in self._tiles:
                buffer = self._free.get()
                if buffer is None or self._closed:
                    return
                with self._stages.measure(clock.FETCH, tile.rows * tensor.row_bytes):
                    data = read_tile(self._store, self._catalog, tensor, tile, buffer)
                counters.read_bytes.inc(data.nbytes)
                self._ready.put(FetchedTile(tile, data, buffer))
            self._ready.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again by the consumer
            self._ready.put(error)
