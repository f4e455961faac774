"""Reading a calibration file, from a disk or by ranged reads, one batch at a time.

The file is untrusted: what lies outside the numbers is checked before Arrow sees it, the numbers
before anybody uses them. Memory is one batch; its size is known from the index before it is read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from arrowquant.artifact.envelope import Envelope, Stream
from arrowquant.artifact.schema import type_name
from arrowquant.calibration import histogram, layout
from arrowquant.calibration.index import Index, Input, invalid, parse
from arrowquant.calibration.statistics import Samples, Stats
from arrowquant.errors import ArtifactError, CalibrationError

_SLACK = 2**20  # metadata of a batch, paddings


@dataclass(frozen=True, slots=True)
class Panel:
    """Some rows of the second moments: sum of x_i x_j over all activation vectors, float32."""

    row_start: int
    col_start: int
    data: NDArray[np.float32]


class CalibrationFile:
    """An open calibration file. Not for use by several threads at once.

    index  what it holds; `stats`, `panels` and `samples` read the numbers of one input

    Raises invalid_calibration, naming the input and what is wrong with it.
    """

    def __init__(self, stream: Stream, size: int, where: dict[str, Any] | None = None) -> None:
        self._where = dict(where or {})
        self._window = _Window(stream, size)
        self._close = getattr(stream, "close", None)
        most = layout.MAX_BINS * layout.MAX_BRANCHES
        try:
            self._envelope = Envelope(
                self._window, size, self._where, columns=len(layout.COLUMNS), rows=(1, most)
            )
            file = pa.ipc.open_file(pa.PythonFile(cast(BinaryIO, self._window), mode="r"))
            self._schema = file.schema
            self.index: Index = _read_index(self._schema, self._where)
        except ArtifactError as error:
            raise _as_ours(error) from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise invalid(f"not a readable Arrow file: {_brief(error)}", **self._where) from None
        if self._envelope.batches != self.index.batches():
            raise invalid(
                f"{self._envelope.batches} batches, its index tells of {self.index.batches()}",
                **self._where,
            )

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a file on this machine. Raises invalid_calibration, source_not_found."""
        place = Path(path)
        if not place.is_file():
            raise CalibrationError(
                "source_not_found", "there is no such file", "", {"path": str(path)}
            )
        stream = place.open("rb")
        try:
            return cls(stream, place.stat().st_size, {"file": place.name})
        except BaseException:
            stream.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what it reads from."""
        if self._close is not None:
            self._close()

    def stats(self, input_id: str) -> Stats:
        """The sums over an input, checked."""
        entry = self._entry(input_id)
        batch = self._batch(entry, 0, layout.STATS, entry.rows, _stats_bytes(entry))
        where = input_id[:200]
        branches = tuple(batch.column("branch").to_pylist())
        bins = _plain(batch, "bin", np.int32)
        if np.any(bins < 0) or np.any(bins >= self.index.bins):
            raise invalid("statistics of no time bin", input=where)
        if any(branch not in self.index.branches for branch in branches):
            raise invalid("statistics of an unknown branch", input=where)
        if len({*zip(bins.tolist(), branches, strict=True)}) != len(branches):
            raise invalid("two rows are of one time bin and branch", input=where)
        sum_sq = _lists(batch, "sum_sq", entry.n, np.float64, where)
        if sum_sq is None:
            raise invalid("sum_sq is null", input=where)
        found = Stats(
            bins=bins,
            branches=branches,
            count=_plain(batch, "count", np.int64),
            sum_sq=sum_sq,
            sum=_lists(batch, "sum", entry.n, np.float64, where),
            abs_max=_lists(batch, "abs_max", entry.n, np.float32, where),
            low=_maybe(batch, "min"),
            high=_maybe(batch, "max"),
            hist=_lists(batch, "hist", histogram.BINS, np.int64, where),
        )
        found.check(where)
        if entry.means and found.sum is None:
            raise invalid("the sums that its index tells of are missing", input=where)
        return found

    def panels(self, input_id: str) -> Iterator[Panel]:
        """The second moments, block by block, or in runs of rows where they are full."""
        entry = self._entry(input_id)
        for number in range(len(layout.panels(entry.n, entry.moment, entry.block))):
            yield self.panel(input_id, number)

    def panel(self, input_id: str, number: int) -> Panel:
        """One of them."""
        entry = self._entry(input_id)
        place = layout.panels(entry.n, entry.moment, entry.block)[number]
        row_start, rows, col_start, cols = place
        nbytes = 4 * rows * cols
        batch = self._batch(entry, 1 + number, layout.MOMENT, 1, nbytes)
        found = tuple(
            batch.column(name)[0].as_py() for name in ("row_start", "rows", "col_start", "cols")
        )
        if found != place:
            raise invalid(f"second moments of {found}, expected {place}", input=input_id[:200])
        data = _binary(batch, nbytes, np.float32, input_id[:200]).reshape(rows, cols)
        if not np.all(np.isfinite(data)):
            raise invalid("a second moment is not finite", input=input_id[:200])
        return Panel(row_start, col_start, data)

    def samples(self, input_id: str) -> Samples | None:
        """The rows of activations that were kept, or None."""
        entry = self._entry(input_id)
        if not entry.kept:
            return None
        nbytes, where = 2 * entry.n * entry.kept, input_id[:200]
        most = nbytes + 12 * entry.kept
        batch = self._batch(entry, entry.batches() - 1, layout.SAMPLES, 1, most)
        bins = _lists(batch, "sample_bin", entry.kept, np.int32, where)
        keys = _lists(batch, "sample_key", entry.kept, np.uint64, where)
        if bins is None or keys is None:
            raise invalid("the samples lack their bins or keys", input=where)
        data = _binary(batch, nbytes, np.float16, where).reshape(entry.kept, entry.n)
        found = Samples(data, bins[0], keys[0])
        found.check(self.index.bins, where)
        return found

    def _entry(self, input_id: str) -> Input:
        try:
            return self.index.by_id[input_id]
        except KeyError:
            raise invalid("the file has no such input", input=input_id[:200]) from None

    def _batch(self, entry: Input, offset: int, kind: str, rows: int, most: int) -> Any:
        """A batch of an input, which must be as large as the index lets expect."""
        number, where = self.index.first_batch[entry.id] + offset, entry.id[:200]
        try:
            start, stop = self._envelope.place(number)
            if stop - start > most + _SLACK:
                raise invalid(f"a batch of {stop - start} bytes, at most {most}", input=where)
            self._window.load(start, stop)
            self._envelope.check(number)
            message = pa.ipc.read_message(pa.py_buffer(self._window.held()))
            batch = pa.ipc.read_record_batch(message, self._schema)
            batch.validate(full=True)
        except ArtifactError as error:
            raise _as_ours(error) from None
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise invalid(f"a batch is damaged: {_brief(error)}", input=where) from None
        finally:
            self._window.drop()
        for name, expected in (("input", entry.id), ("kind", kind)):
            if set(batch.column(name).to_pylist()) != {expected}:
                raise invalid(f"a batch is not the {kind} of this input", input=where)
        if batch.num_rows != rows:
            raise invalid(f"a batch of {batch.num_rows} rows, not {rows}", input=where)
        return batch


class _Window:
    """A stream of which one stretch at a time is held, so that it is fetched in one read."""

    closed = False

    def __init__(self, stream: Stream, size: int) -> None:
        self._stream, self._size = stream, size
        self._at = self._start = 0
        self._held = b""

    def load(self, start: int, stop: int) -> None:
        """Hold this stretch. Raises OSError where the stream ends before it does."""
        self._stream.seek(start)
        self._held, self._start = self._stream.read(stop - start), start
        if len(self._held) != stop - start:
            raise OSError("the file ends too early")

    def held(self) -> bytes:
        return self._held

    def drop(self) -> None:
        self._held = b""

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._at = max(0, (0, self._at, self._size)[whence] + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        stop = self._size if size < 0 else min(self._size, self._at + size)
        if stop <= self._at:
            return b""
        begin = self._at - self._start
        if begin >= 0 and stop - self._start <= len(self._held):
            data = self._held[begin : stop - self._start]
        else:
            self._stream.seek(self._at)
            data = self._stream.read(stop - self._at)
        self._at += len(data)
        return data


def _read_index(schema: Any, where: dict[str, Any]) -> Index:
    metadata = schema.metadata or {}
    version = metadata.get(layout.METADATA_KEY)
    if version != str(layout.FORMAT_VERSION).encode():
        raise invalid(
            f"not a calibration file: its schema says version {version!r:.40}",
            "Make one with arrowquant.torch.capture, or `arrowquant calibration import`.",
            **where,
        )
    names = tuple((f.name, type_name(f.type)) for f in schema)
    if names != layout.COLUMNS:
        odd = sorted({f"{n}: {t}"[:80] for n, t in set(names) ^ set(layout.COLUMNS)})
        raise invalid(f"its columns are not those of version 1: {', '.join(odd[:6])}", **where)
    return parse(metadata.get(layout.INDEX_KEY, b""))


def _stats_bytes(entry: Input) -> int:
    return entry.rows * (entry.n * 20 + histogram.BINS * 8 + 2 * len(entry.id.encode()) + 512)


def _plain(batch: Any, name: str, kind: type[np.generic]) -> NDArray[Any]:
    column = batch.column(name)
    if column.null_count:
        raise invalid(f"{name} is null")
    return np.asarray(column.to_numpy(zero_copy_only=False), kind)


def _maybe(batch: Any, name: str) -> NDArray[np.float32] | None:
    column = batch.column(name)
    return None if column.null_count else np.asarray(column.to_numpy(zero_copy_only=False))


def _lists(
    batch: Any, name: str, length: int, kind: type[np.generic], where: str
) -> NDArray[Any] | None:
    """A column of lists of one length as a matrix, or None where it is null throughout."""
    column = batch.column(name)
    if column.null_count == len(column):
        return None
    items = column.flatten()
    lengths = set(column.value_lengths().to_pylist())
    if lengths != {length} or items.null_count:
        raise invalid(f"{name} is not {length} numbers in every row", input=where)
    return np.asarray(items.to_numpy(zero_copy_only=True), kind).reshape(len(column), length)


def _binary(batch: Any, nbytes: int, kind: type[np.generic], where: str) -> NDArray[Any]:
    data = np.frombuffer(batch.column("data")[0].as_buffer() or b"", np.uint8)
    if data.size != nbytes:
        raise invalid(f"{data.size} bytes of data, not {nbytes}", input=where)
    return data.view(kind)


def _as_ours(error: ArtifactError) -> CalibrationError:
    return CalibrationError("invalid_calibration", error.detail, error.hint, error.where)


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
