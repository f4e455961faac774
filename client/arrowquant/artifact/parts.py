"""One part file, memory-mapped, and the tiles in it. Every value is checked before it is used."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from arrowquant.artifact import schema
from arrowquant.artifact.envelope import check_envelope
from arrowquant.artifact.manifest import PartEntry, TensorEntry, invalid
from arrowquant.errors import ArtifactError


@dataclass(frozen=True, slots=True)
class Tile:
    """Some rows of a tensor as they are stored. The arrays are views of the mapped file.

    codes   uint8 (rows, row stride)
    scales  float16 (rows * groups), or one value, or None for raw
    mins    the same, or None
    """

    tensor: str
    tile_index: int
    row_start: int
    rows: int
    cols: int
    shape: tuple[int, ...]
    dtype: str
    role: str
    codec: str
    bits: int
    group_size: int
    codes: NDArray[np.uint8]
    scales: NDArray[np.float16] | None
    mins: NDArray[np.float16] | None
    relmse: float | None
    crc32c: int
    where: dict[str, Any]

    @property
    def groups(self) -> int:
        """Scales per row (1 when the tensor has one scale in all)."""
        return -(-self.cols // self.group_size) if self.group_size > 0 else 1

    @property
    def stored_bytes(self) -> int:
        halves = (self.scales, self.mins)
        return self.codes.nbytes + sum(part.nbytes for part in halves if part is not None)


class Part:
    """An open part. Batches are read one at a time, without copying."""

    def __init__(self, folder: Path, entry: PartEntry) -> None:
        path = folder / entry.name
        self.entry = entry
        self._where: dict[str, Any] = {"part": entry.name}
        self._lock = threading.Lock()
        try:
            if not path.is_file():
                raise invalid("the part is missing", "Fetch the artifact again.", **self._where)
            size = path.stat().st_size
            if size != entry.nbytes:
                raise invalid(
                    f"the part has {size} bytes, the manifest says {entry.nbytes}",
                    "The copy is incomplete or altered; fetch the artifact again.",
                    **self._where,
                )
            check_envelope(path, self._where)
            self._file = pa.memory_map(str(path), "r")
        except OSError as error:
            raise invalid(f"the part cannot be opened: {error}", **self._where) from None
        try:
            self._reader = pa.ipc.open_file(self._file)
            self.batches: int = self._reader.num_record_batches
            _check_schema(self._reader.schema, self._where)
            if entry.batches is not None and entry.batches != self.batches:
                raise invalid(
                    f"{self.batches} batches, the manifest says {entry.batches}", **self._where
                )
        except (pa.ArrowException, OSError, ValueError) as error:
            self._file.close()
            raise invalid(f"not a readable Arrow file: {_brief(error)}", **self._where) from None
        except ArtifactError:
            self._file.close()
            raise

    def close(self) -> None:
        """Let go of the mapping once nothing refers to it any more."""
        self._file.close()

    def tensor_name(self, number: int) -> str:
        """The tensor that batch `number` belongs to."""
        batch, where = self._batch(number)
        return str(_scalar(batch, "tensor", where))

    def tile(self, number: int, tensor: TensorEntry) -> Tile:
        """Batch `number`, which must be a tile of this tensor (its stored name, if tied)."""
        batch, where = self._batch(number)
        where = where | {"tensor": tensor.name[:200]}
        value = {name: _scalar(batch, name, where) for name, _ in _SCALARS}
        _check_fields(value, tensor, where)
        rows, stride = int(value["rows"]), int(value["row_stride_bytes"])
        # Large values stay where they are: as views, never as Python objects.
        codes = np.frombuffer(_large(batch, "codes"), np.uint8)
        if codes.size != rows * stride:
            raise invalid(f"{codes.size} bytes of codes for {rows} rows of {stride} bytes", **where)
        return Tile(
            tensor=value["tensor"],
            tile_index=value["tile_index"],
            row_start=value["row_start"],
            rows=rows,
            cols=value["cols"],
            shape=tensor.shape,
            dtype=tensor.dtype,
            role=value["role"],
            codec=tensor.codec,
            bits=tensor.bits,
            group_size=tensor.group_size,
            codes=codes.reshape(rows, stride),
            scales=_halves(batch, "scales", value, tensor, where),
            mins=_halves(batch, "mins", value, tensor, where),
            relmse=value["relmse"],
            crc32c=value["crc32c"],
            where=where,
        )

    def _batch(self, number: int) -> tuple[Any, dict[str, Any]]:
        where = self._where | {"batch": number}
        if number >= self.batches:
            raise invalid(f"the part has only {self.batches} batches", **where)
        try:
            with self._lock:
                batch = self._reader.get_batch(number)
            batch.validate(full=True)
        except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
            raise invalid(f"the batch is damaged: {_brief(error)}", **where) from None
        if batch.num_rows != 1:
            raise invalid(f"the batch has {batch.num_rows} rows, not 1", **where)
        return batch, where


_SCALARS = [c for c in schema.COLUMNS if c[0] not in ("codes", "scales", "mins")]


def _check_schema(found: Any, where: dict[str, Any]) -> None:
    version = (found.metadata or {}).get(schema.METADATA_KEY)
    if version != str(schema.FORMAT_VERSION).encode():
        raise invalid(f"schema metadata says format {version!r:.40}", **where)
    names = tuple((f.name, schema.type_name(f.type)) for f in found)
    if names != schema.COLUMNS:
        odd = sorted({f"{n}: {t}"[:80] for n, t in set(names) ^ set(schema.COLUMNS)})
        what = f"these differ: {', '.join(odd[:6])}" if odd else "their order differs"
        raise invalid(f"the columns are not those of version 1; {what}", **where)
    if any(field.metadata for field in found):
        raise invalid("a column carries metadata (an extension type?)", **where)


def _scalar(batch: Any, name: str, where: dict[str, Any]) -> Any:
    value = batch.column(name)[0].as_py()
    if value is None and name not in schema.NULLABLE:
        raise invalid(f"{name} is null", **where)
    return value


def _check_fields(value: dict[str, Any], tensor: TensorEntry, where: dict[str, Any]) -> None:
    """Compare a tile with what the manifest says of its tensor."""
    expected = {
        "tensor": tensor.tied_to or tensor.name,
        "shape": list(tensor.shape),
        "orig_dtype": tensor.dtype,
        "codec": tensor.codec,
        "bits": tensor.bits,
        "bit_order": "" if tensor.codec == "raw" else schema.BIT_ORDER,
    }
    if tensor.codec != "raw":
        expected["group_size"] = tensor.group_size
    for name, want in expected.items():
        if value[name] != want:
            raise invalid(f"{name} is {value[name]!r:.80}, expected {want!r:.80}", **where)
    for name in ("tile_index", "row_start", "rows", "cols", "row_stride_bytes"):
        if not 0 <= value[name] <= schema.MAX_DIM:
            raise invalid(f"{name} is {value[name]}", **where)
    cols, stride = value["cols"], value["row_stride_bytes"]
    if tensor.codec == "raw":
        width = schema.DTYPE_BITS[tensor.dtype]
        fits = stride * 8 == cols * width or (width % 8 != 0 and cols == 0)
    else:
        fits = cols > 0 and stride >= (cols * tensor.bits + 7) // 8 and value["rows"] > 0
    if not fits:
        raise invalid(f"rows of {stride} bytes do not fit {cols} columns", **where)


def _large(batch: Any, name: str) -> Any:
    # A large binary scalar as a buffer: as_py() would copy it.
    return batch.column(name)[0].as_buffer() or b""


def _halves(
    batch: Any, name: str, value: dict[str, Any], tensor: TensorEntry, where: dict[str, Any]
) -> NDArray[np.float16] | None:
    scalar = batch.column(name)[0]
    wanted = tensor.codec == "affine_u" or (tensor.codec == "sym_s" and name == "scales")
    if scalar.is_valid != wanted:
        what = "present" if scalar.is_valid else "missing"
        raise invalid(f"{name} is {what} for codec {tensor.codec}", **where)
    if not wanted:
        return None
    items = scalar.values
    group = tensor.group_size
    count = 1
    if group != schema.PER_TENSOR:
        count = int(value["rows"]) * (-(-int(value["cols"]) // group) if group else 1)
    if len(items) != count or items.null_count:
        raise invalid(f"{len(items)} {name} ({items.null_count} null), need {count}", **where)
    array: NDArray[np.float16] = items.to_numpy(zero_copy_only=True)
    return array


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
