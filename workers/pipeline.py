"""One pass over one unit: fetch, quantize and write overlap; memory is a few tiles.

    fetch thread --tiles--> this thread: kernels --stored tiles--> write thread --> upload

A pass knows nothing of the ledger. It ends with a finished but unpublished part and the error sums
of every tensor in it; whether they are good enough is decided by the caller.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from kernels import ErrorSums
from service import logs
from service.domain.outputs import JobPlan
from service.domain.ports import ObjectStore
from service.domain.profiles import Action
from service.domain.treatment import TensorPlan
from service.domain.units import Tile, Unit, tiles_of, whole
from workers.artifact.part import PartWriter, WrittenPart
from workers.artifact.schema import StoredTile
from workers.calibration.binding import Binding
from workers.calibration.measured import Measured
from workers.memory import Budget
from workers.spatial.smoothing import Look
from workers.stages import clock
from workers.stages.calibrated import Inputs
from workers.stages.encode import Encoding, encode_tile, keep_tile, tile_range
from workers.stages.fetch import FetchedTile, Prefetcher
from workers.stages.methods import Dtype, Range


@dataclass(slots=True)
class TensorSums:
    """What a pass measured of one tensor's rows in this unit; `output`: of the layer's output, where
    it is calibrated; `groups`: error and energy of it in each time bin, float64 (bins, 2)."""

    errors: ErrorSums = field(default_factory=ErrorSums)
    output: ErrorSums = field(default_factory=ErrorSums)
    groups: NDArray[np.float64] | None = None
    stored_bytes: int = 0

    def add(self, made: Encoding) -> None:
        """Count a tile in."""
        self.errors += made.errors
        self.output += made.output or ErrorSums()
        if made.groups is not None:
            self.groups = made.groups if self.groups is None else self.groups + made.groups


@dataclass(frozen=True, slots=True)
class Pass:
    """The outcome of a pass for one output."""

    part: WrittenPart
    sums: dict[int, TensorSums]


@dataclass(frozen=True, slots=True)
class Work:
    """What a pass works on.

    outputs  for the number of each output that is to be made, the plan's tensors at their present
             levels; all of them have the same tiles
    measured  the calibration file, for tensors that are calibrated
    """

    plan: JobPlan
    unit: Unit
    outputs: dict[int, dict[int, TensorPlan]]
    store: ObjectStore
    budget: Budget
    threads: int
    stages: clock.Stages = field(default_factory=clock.Stages)
    measured: Measured | None = None

    def sources(self) -> dict[int, TensorPlan]:
        """The tensors as far as reading is concerned, in which outputs do not differ."""
        return next(iter(self.outputs.values()))


def run_pass(
    work: Work, writers: Mapping[int, PartWriter], checkpoint: Callable[[int], None]
) -> dict[int, Pass]:
    """Read every tile of the unit once, quantize and write it for each output.

    writers     one for each output of the work
    checkpoint  called with the source bytes of each finished tile; raises to stop the pass
    """
    ranges = _ranges(work, checkpoint)
    factors = _factors(work, checkpoint)
    sums: dict[int, dict[int, TensorSums]] = {output: {} for output in work.outputs}
    fetcher = _prefetch(work, [work.sources()[t.tensor] for t in work.plan.tiles(work.unit)])
    written = _Writing(writers, fetcher, work.stages)
    binding = _Bindings(work)
    try:
        for fetched in fetcher:
            binding.passed(fetched)
            index, nbytes = fetched.tile.tensor, fetched.data.nbytes
            for output, tensors in work.outputs.items():
                tensor = tensors[index]
                value_range = ranges.get((index, tensor.rotated))
                known = _Known(value_range, factors.get((output, index)))
                made = _one_tile(work, tensor, fetched, known)
                entry = sums[output].setdefault(index, TensorSums())
                entry.add(made)
                entry.stored_bytes += tensor.tile_sizes(fetched.tile.rows).payload
                written.put(output, tensor, fetched, made.stored)
            checkpoint(nbytes)
        binding.finish()
        written.drain()
        return {output: Pass(writers[output].finish(), sums[output]) for output in work.outputs}
    finally:
        written.close()  # before the buffers that it writes from are given to others
        fetcher.close()


def _ranges(work: Work, checkpoint: Callable[[int], None]) -> dict[tuple[int, bool], Range]:
    """The range of every tensor that has one scale in some output, as it is and rotated."""
    found: dict[tuple[int, bool], Range] = {}
    for tensors in work.outputs.values():
        for index, tensor in tensors.items():
            key = index, tensor.rotated
            if tensor.treatment.per_tensor and key not in found:
                found[key] = _tensor_range(work, tensor, checkpoint)
    return found


def _factors(
    work: Work, checkpoint: Callable[[int], None]
) -> dict[tuple[int, int], NDArray[np.float32]]:
    """What the columns of every smoothed tensor are multiplied by, by output and tensor; one look at its
    rows for all outputs, also at those that other units hold."""
    found: dict[tuple[int, int], NDArray[np.float32]] = {}
    if work.measured is None:
        return found
    for index in work.sources():
        look: Look | None = None
        for output, tensors in work.outputs.items():
            tensor = tensors[index]
            if tensor.treatment.smoothing is None:
                continue
            look = look or _look(work, tensor, checkpoint)
            found[output, index] = work.measured.smoothing(tensor, look)
    return found


def _look(work: Work, tensor: TensorPlan, checkpoint: Callable[[int], None]) -> Look:
    look = Look(tensor.rows, tensor.cols)
    for fetched in _whole(work, tensor, checkpoint):
        dtype = cast(Dtype, tensor.source.dtype)
        look.feed(fetched.tile.row_start, fetched.matrix(tensor), dtype)
    return look


@dataclass(frozen=True, slots=True)
class _Known:
    """Of a whole tensor, before its first tile is quantized."""

    value_range: Range | None
    factors: NDArray[np.float32] | None


def _one_tile(work: Work, tensor: TensorPlan, fetched: FetchedTile, known: _Known) -> Encoding:
    with work.stages.measure(clock.ENCODE, fetched.data.nbytes):
        if tensor.treatment.action is Action.KEEP:
            return Encoding(keep_tile(fetched.data), ErrorSums(), None)
        matrix = fetched.matrix(tensor)
        one_scale = known.value_range if tensor.treatment.per_tensor else None
        inputs = inputs_of(work.measured, tensor, work.threads)
        if inputs is not None and known.factors is not None:
            inputs = replace(inputs, factors=known.factors)
        return encode_tile(
            tensor,
            fetched.tile,
            matrix,
            one_scale,
            work.threads,
            inputs,
        )


def inputs_of(
    measured: Measured | None, tensor: TensorPlan, threads: int, *, by_time: bool = True
) -> Inputs | None:
    """What the treatment asks for of a calibrated tensor's inputs; by_time: and how they differ with time."""
    how = tensor.treatment
    if not how.calibrated or measured is None:
        return None
    return Inputs(
        measured.importance(tensor.name),
        measured.mean(tensor.name) if how.bias_correction else None,
        None if how.gptq_block is None else measured.moments(tensor.name, how.gptq_block, threads),
        groups=measured.groups(tensor.name) if by_time else None,
    )


class _Bindings:
    """Holds the tiles of calibrated tensors against the calibration's digests."""

    def __init__(self, work: Work) -> None:
        self._calibrated = {
            index: tensor
            for tensors in work.outputs.values()
            for index, tensor in tensors.items()
            if tensor.treatment.calibrated
        }
        self._binding: Binding | None = None
        if work.measured is not None and self._calibrated:
            self._binding = Binding(work.measured, work.store, work.plan.catalog)

    def passed(self, fetched: FetchedTile) -> None:
        tensor = self._calibrated.get(fetched.tile.tensor)
        if self._binding is not None and tensor is not None:
            self._binding.passed(tensor, fetched.tile, fetched.data)

    def finish(self) -> None:
        if self._binding is not None:
            self._binding.finish()


def _prefetch(work: Work, tensors: list[TensorPlan]) -> Prefetcher:
    tiles = zip(tensors, work.plan.tiles(work.unit), strict=True)
    return _reading(work, tiles)


def _reading(work: Work, tiles: Iterable[tuple[TensorPlan, Tile]]) -> Prefetcher:
    return prefetch(work.store, work.plan, work.budget, tiles, work.stages)


def prefetch(
    store: ObjectStore,
    plan: JobPlan,
    budget: Budget,
    tiles: Iterable[tuple[TensorPlan, Tile]],
    stages: clock.Stages,
) -> Prefetcher:
    """Tiles of a plan's source in this order, read ahead as far as the budget lets."""
    return Prefetcher(store, plan.catalog, tiles, budget.buffers, budget.buffer_bytes, stages)


def _tensor_range(work: Work, tensor: TensorPlan, checkpoint: Callable[[int], None]) -> Range:
    """One scale for the whole tensor needs its whole range first, also what other units hold."""
    low, high = float("inf"), float("-inf")
    for fetched in _whole(work, tensor, checkpoint):
        lo, hi = tile_range(tensor, fetched.tile, fetched.matrix(tensor), work.threads)
        low, high = min(low, lo), max(high, hi)
    return low, high


def _whole(
    work: Work, tensor: TensorPlan, checkpoint: Callable[[int], None]
) -> Iterator[FetchedTile]:
    """All tiles of a tensor; each is gone when the next one is asked for."""
    fetcher = _reading(work, [(tensor, tile) for tile in tiles_of(tensor, whole(tensor))])
    try:
        for fetched in fetcher:
            yield fetched
            fetcher.release(fetched)
            checkpoint(0)
    finally:
        fetcher.close()


class _Writing:
    """The write thread: one encoded tile waits while one is being written.

    A tile's buffer is given back once all outputs have it.
    """

    def __init__(
        self, writers: Mapping[int, PartWriter], fetcher: Prefetcher, stages: clock.Stages
    ) -> None:
        self._writers, self._fetcher, self._stages = writers, fetcher, stages
        self._last = next(reversed(list(writers)))
        self._todo: queue.Queue[tuple[int, TensorPlan, FetchedTile, StoredTile] | None]
        self._todo = queue.Queue(1)
        self._error: BaseException | None = None
        self._thread = threading.Thread(
            target=logs.in_context(self._run), name="write", daemon=True
        )
        self._thread.start()

    def put(
        self, output: int, tensor: TensorPlan, fetched: FetchedTile, stored: StoredTile
    ) -> None:
        self._raise()
        self._todo.put((output, tensor, fetched, stored))

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
            output, tensor, fetched, stored = item
            try:
                if self._error is None:
                    with self._stages.measure(clock.WRITE, fetched.data.nbytes):
                        self._writers[output].write(tensor, fetched.tile, stored)
            except BaseException as error:  # noqa: BLE001 - raised again by the caller
                self._error = error
            finally:
                if output == self._last:
                    self._fetcher.release(fetched)
