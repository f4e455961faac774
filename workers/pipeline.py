"""One pass over one unit: fetch, quantize and write overlap; memory is a few tiles.

    fetch thread --tiles--> this thread: kernels --stored tiles--> write thread --> upload

A pass knows nothing of the ledger. It ends with a finished but unpublished part and the error sums
of every tensor in it; whether they are good enough is decided by the caller.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from kernels import ErrorSums
from service import logs
from service.domain.plan import Plan
from service.domain.ports import ObjectStore
from service.domain.profiles import Action
from service.domain.treatment import TensorPlan
from service.domain.units import Tile, Unit, tiles_of, whole
from workers.artifact.part import PartWriter, WrittenPart
from workers.artifact.schema import StoredTile
from workers.memory import Budget
from workers.stages import clock
from workers.stages.encode import Range, encode_tile, keep_tile, tile_range
from workers.stages.fetch import FetchedTile, Prefetcher


@dataclass(slots=True)
class TensorSums:
    """What a pass measured of one tensor's rows in this unit."""

    errors: ErrorSums = field(default_factory=ErrorSums)
    stored_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Pass:
    """The outcome of a pass."""

    part: WrittenPart
    sums: dict[int, TensorSums]


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass works on. `tensors` are the plan's, at their present levels."""

    plan: Plan
    unit: Unit
    tensors: dict[int, TensorPlan]
    store: ObjectStore
    budget: Budget
    threads: int
    stages: clock.Stages = field(default_factory=clock.Stages)


def run_pass(work: Work, writer: PartWriter, checkpoint: Callable[[int], None]) -> Pass:
    """Read, quantize and write every tile of the unit.

    checkpoint  called with the source bytes of each finished tile; raises to stop the pass
    """
    ranges = {
        index: _tensor_range(work, tensor, checkpoint)
        for index, tensor in work.tensors.items()
        if tensor.treatment.per_tensor and tensor.treatment.action is Action.QUANTIZE
    }
    sums: dict[int, TensorSums] = {}
    fetcher = _prefetch(work, [work.tensors[t.tensor] for t in work.plan.tiles(work.unit)])
    written = _Writing(writer, fetcher, work.stages)
    try:
        for fetched in fetcher:
            tensor = work.tensors[fetched.tile.tensor]
            stored, errors = _one_tile(work, tensor, fetched, ranges.get(tensor.index))
            entry = sums.setdefault(tensor.index, TensorSums())
            entry.errors += errors
            entry.stored_bytes += tensor.tile_sizes(fetched.tile.rows).payload
            nbytes = fetched.data.nbytes
            written.put(tensor, fetched, stored)
            checkpoint(nbytes)
        written.drain()
        return Pass(writer.finish(), sums)
    finally:
        fetcher.close()
        written.close()


def _one_tile(
    work: Work, tensor: TensorPlan, fetched: FetchedTile, value_range: Range | None
) -> tuple[StoredTile, ErrorSums]:
    with work.stages.measure(clock.ENCODE, fetched.data.nbytes):
        if tensor.treatment.action is Action.KEEP:
            return keep_tile(fetched.data), ErrorSums()
        matrix = fetched.matrix(tensor)
        return encode_tile(tensor, fetched.tile, matrix, value_range, work.threads)


def _prefetch(work: Work, tensors: list[TensorPlan]) -> Prefetcher:
    tiles = zip(tensors, work.plan.tiles(work.unit), strict=True)
    return _reading(work, tiles)


def _reading(work: Work, tiles: Iterable[tuple[TensorPlan, Tile]]) -> Prefetcher:
    catalog, budget = work.plan.catalog, work.budget
    return Prefetcher(work.store, catalog, tiles, budget.buffers, budget.buffer_bytes, work.stages)


def _tensor_range(work: Work, tensor: TensorPlan, checkpoint: Callable[[int], None]) -> Range:
    """One scale for the whole tensor needs its whole range first, also what other units hold."""
    tiles = [(tensor, tile) for tile in tiles_of(tensor, whole(tensor))]
    fetcher = _reading(work, tiles)
    low, high = float("inf"), float("-inf")
    try:
        for fetched in fetcher:
            lo, hi = tile_range(tensor, fetched.tile, fetched.matrix(tensor), work.threads)
            low, high = min(low, lo), max(high, hi)
            fetcher.release(fetched)
            checkpoint(0)
    finally:
        fetcher.close()
    return low, high


class _Writing:
    """The write thread: one tile waits while one is being written."""

    def __init__(self, writer: PartWriter, fetcher: Prefetcher, stages: clock.Stages) -> None:
        self._writer, self._fetcher, self._stages = writer, fetcher, stages
        self._todo: queue.Queue[tuple[TensorPlan, FetchedTile, StoredTile] | None] = queue.Queue(1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=logs.in_context(self._run), name="write", daemon=True
        )
        self._thread.start()

    def put(self, tensor: TensorPlan, fetched: FetchedTile, stored: StoredTile) -> None:
        self._raise()
        self._todo.put((tensor, fetched, stored))

    def drain(self) -> None:
        """Wait until everything was written; raises what writing raised."""
        self.close()
        self._raise()

    def close(self) -> None:
        if self._thread.is_alive():
            self._todo.put(None)
            self._thread.join()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        # After an error the queue is still emptied, so that nobody waits for a dead thread.
        while (item := self._todo.get()) is not None:
            tensor, fetched, stored = item
            try:
                if self._error is None:
                    with self._stages.measure(clock.WRITE, fetched.data.nbytes):
                        self._writer.write(tensor, fetched.tile, stored)
            except BaseException as error:  # noqa: BLE001 - raised again by the caller
                self._error = error
            finally:
                self._fetcher.release(fetched)
