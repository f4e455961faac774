"""Writing a calibration file: the index first, then the batches of each input in its order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from arrowquant.calibration import layout
from arrowquant.calibration.index import Index, Input, check
from arrowquant.calibration.statistics import Samples, Stats


class CalibrationWriter:
    """Writes inputs one after the other: nothing but the one at hand is in memory.

    The file appears under its name when it is complete. Inputs come in the order of the index.
    """

    def __init__(self, path: str | os.PathLike[str], index: Index) -> None:
        check(index)
        self.index = index
        self._path = Path(path)
        self._unfinished = self._path.with_name(self._path.name + ".unfinished")
        self._schema = layout.arrow_schema(index.dump())
        self._todo = iter(index.inputs)
        self._writer = pa.ipc.new_file(str(self._unfinished), self._schema)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        whole = next(self._todo, None) is None
        if error is None and whole:
            self._unfinished.replace(self._path)
            return
        with contextlib.suppress(FileNotFoundError):
            self._unfinished.unlink()
        if error is None:
            raise ValueError("an input of the index was not written")

    def write(
        self,
        stats: Stats,
        panels: Iterable[NDArray[np.float32]] = (),
        samples: Samples | None = None,
    ) -> None:
        """The next input: its sums, the data of its panels (see layout.panels), its samples."""
        entry = next(self._todo)
        if stats.sum_sq.shape != (entry.rows, entry.n):
            raise ValueError(f"statistics of shape {stats.sum_sq.shape} for {entry}")
        stats.check(entry.id)
        self._writer.write_batch(self._stats(entry, stats))
        places = layout.panels(entry.n, entry.moment, entry.block)
        for place, data in zip(places, panels, strict=True):
            self._writer.write_batch(self._panel(entry, place, data))
        if entry.kept:
            if samples is None or samples.data.shape != (entry.kept, entry.n):
                raise ValueError(f"the samples do not fit {entry}")
            self._writer.write_batch(self._samples(entry, samples))

    def _stats(self, entry: Input, stats: Stats) -> Any:
        return self._batch(
            entry.rows,
            input=pa.array([entry.id] * entry.rows, pa.utf8()),
            kind=pa.array([layout.STATS] * entry.rows, pa.utf8()),
            branch=pa.array(stats.branches, pa.utf8()),
            bin=pa.array(stats.bins, pa.int32()),
            count=pa.array(stats.count, pa.int64()),
            sum=_matrix(stats.sum, pa.float64()),
            sum_sq=_matrix(stats.sum_sq, pa.float64()),
            abs_max=_matrix(stats.abs_max, pa.float32()),
            min=None if stats.low is None else pa.array(stats.low, pa.float32()),
            max=None if stats.high is None else pa.array(stats.high, pa.float32()),
            hist=_matrix(stats.hist, pa.int64()),
        )

    def _panel(
        self, entry: Input, place: tuple[int, int, int, int], data: NDArray[np.float32]
    ) -> Any:
        row_start, rows, col_start, cols = place
        if data.shape != (rows, cols):
            raise ValueError(f"second moments of shape {data.shape}, expected {(rows, cols)}")
        return self._batch(
            1,
            input=pa.array([entry.id], pa.utf8()),
            kind=pa.array([layout.MOMENT], pa.utf8()),
            row_start=pa.array([row_start], pa.int64()),
            rows=pa.array([rows], pa.int64()),
            col_start=pa.array([col_start], pa.int64()),
            cols=pa.array([cols], pa.int64()),
            data=_blob(np.ascontiguousarray(data, "<f4")),
        )

    def _samples(self, entry: Input, samples: Samples) -> Any:
        return self._batch(
            1,
            input=pa.array([entry.id], pa.utf8()),
            kind=pa.array([layout.SAMPLES], pa.utf8()),
            data=_blob(np.ascontiguousarray(samples.data, "<f2")),
            sample_bin=_matrix(samples.bins[None], pa.int32()),
            sample_key=_matrix(samples.keys[None], pa.uint64()),
        )

    def _batch(self, rows: int, /, **columns: Any) -> Any:
        arrays = [
            columns[field.name]
            if columns.get(field.name) is not None
            else pa.nulls(rows, field.type)
            for field in self._schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)


def _matrix(values: NDArray[Any] | None, kind: Any) -> Any:
    """Rows as lists, around the array's own buffer."""
    if values is None:
        return None
    rows, cols = values.shape
    offsets = pa.array(np.arange(rows + 1, dtype=np.int64) * cols)
    return pa.LargeListArray.from_arrays(offsets, pa.array(values.reshape(-1), kind))


def _blob(data: NDArray[Any]) -> Any:
    offsets = pa.py_buffer(np.array([0, data.nbytes], np.int64))
    return pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, pa.py_buffer(data)])
