"""Reading tiles ahead of the kernels, into buffers that are used again and again."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
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


_Begun = tuple[Future[FetchedTile], TensorPlan, Tile, npt.NDArray[np.uint8]]


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
    """Tiles in order, read ahead while earlier ones are at work.

    `buffers` of `buffer_bytes` each are all the memory there is: nothing is read before one is
    given back with `release`. As many tiles are read at once as the store gains from.
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
        self._store, self._catalog, self._stages = store, catalog, stages
        self._tiles = iter(tiles)
        self._free: queue.SimpleQueue[npt.NDArray[np.uint8] | None] = queue.SimpleQueue()
        self._buffers = SPARE.take(buffers, buffer_bytes)
        for buffer in self._buffers:
            self._free.put(buffer)
        self._ready: queue.SimpleQueue[Future[FetchedTile] | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._closed = False
        self._threads = [
            threading.Thread(target=logs.in_context(self._run), name=f"fetch-{number}", daemon=True)
            for number in range(max(1, min(store.reads_at_once, buffers - 1)))
        ]
        for thread in self._threads:
            thread.start()

    def __iter__(self) -> Iterator[FetchedTile]:
        while (item := self._ready.get()) is not None:
            yield item.result()

    def release(self, fetched: FetchedTile) -> None:
        """The tile's bytes are no longer needed."""
        self._free.put(fetched.buffer)

    def close(self) -> None:
        """Stop reading; waits for reads that are under way. Nobody may still have a tile."""
        self._closed = True
        self._free.put(None)
        for thread in self._threads:
            thread.join()
        SPARE.give(self._buffers)
        self._buffers = []

    def _run(self) -> None:
        while (begun := self._begin()) is not None:
            future, tensor, tile, buffer = begun
            try:
                with self._stages.measure(clock.FETCH, tile.rows * tensor.row_bytes):
                    data = read_tile(self._store, self._catalog, tensor, tile, buffer)
                counters.read_bytes.inc(data.nbytes)
                future.set_result(FetchedTile(tile, data, buffer))
            except BaseException as error:  # noqa: BLE001 - raised again by the consumer
                future.set_exception(error)
                return

    def _begin(self) -> _Begun | None:
        """The next tile and a buffer for it, one thread at a time: tiles are begun in order."""
        with self._turn:
            buffer = self._free.get()
            if buffer is None or self._closed:
                self._free.put(None)  # for the other threads
                return None
            found = next(self._tiles, None)
            if found is None:
                self._free.put(buffer)
                self._ready.put(None)
                return None
            future: Future[FetchedTile] = Future()
            self._ready.put(future)
            return future, *found, buffer
