"""One part file, memory-mapped, and the tiles in it. Every value is checked before it is used."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from arrowquant.artifact import rotation, schema
from arrowquant.artifact.codecs import CODECS, RAW
from arrowquant.artifact.envelope import check_envelope
from arrowquant.artifact.manifest import PartEntry, TensorEntry, invalid
from arrowquant.artifact.rotation import Rotation
from arrowquant.artifact.tile import Tile
from arrowquant.errors import ArtifactError


class Part:
    """An open part of an artifact of this version. Batches are read one at a time, without copying."""

    def __init__(self, folder: Path, entry: PartEntry, version: int) -> None:
        path = folder / entry.name
        self.entry = entry
        self._scalars = [name for name, _ in schema.COLUMNS[version] if name not in schema.LARGE]
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
            _check_schema(self._reader.schema, version, self._where)
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
        value = {name: _scalar(batch, name, where) for name in self._scalars}
        turned = _rotation(value, tensor, where)
        _check_fields(value, tensor, where)
        shape = _Shape(value, tensor)
        if tensor.codec != RAW and (wrong := CODECS[tensor.codec].problem(shape)):
            raise invalid(wrong, **where)
        # Large values stay where they are: as views, never as Python objects.
        codes = np.frombuffer(_large(batch, "codes"), np.uint8)
        stride = shape.stride
        if codes.size != shape.rows * stride:
            detail = f"{codes.size} bytes of codes for {shape.rows} rows of {stride} bytes"
            raise invalid(detail, **where)
        return Tile(
            tensor=value["tensor"],
            tile_index=value["tile_index"],
            row_start=value["row_start"],
            rows=shape.rows,
            cols=shape.cols,
            shape=tensor.shape,
            dtype=tensor.dtype,
            role=value["role"],
            codec=tensor.codec,
            bits=tensor.bits,
            group_size=tensor.group_size,
            codes=codes.reshape(shape.rows, stride),
            relmse=value["relmse"],
            crc32c=value["crc32c"],
            where=where,
            scale_bits=shape.scale_bits,
            rotation=turned,
            rho=value.get("rho"),
            **_arrays(batch, shape, tensor, where),
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


class _Shape:
    """What a tile says of itself, as codecs want to know it."""

    def __init__(self, value: dict[str, Any], tensor: TensorEntry) -> None:
        self.rows, self.cols = int(value["rows"]), int(value["cols"])
        self.bits, self.group_size = tensor.bits, tensor.group_size
        self.scale_bits = int(value.get("scale_bits") or 0)
        self.stride = int(value["row_stride_bytes"])


def _check_schema(found: Any, version: int, where: dict[str, Any]) -> None:
    said = (found.metadata or {}).get(schema.METADATA_KEY)
    if said != str(version).encode():
        raise invalid(f"schema metadata says format {said!r:.40}, expected {version}", **where)
    names = tuple((f.name, schema.type_name(f.type)) for f in found)
    if names != schema.COLUMNS[version]:
        odd = sorted({f"{n}: {t}"[:80] for n, t in set(names) ^ set(schema.COLUMNS[version])})
        what = f"these differ: {', '.join(odd[:6])}" if odd else "their order differs"
        raise invalid(f"the columns are not those of version {version}; {what}", **where)
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


def _rotation(value: dict[str, Any], tensor: TensorEntry, where: dict[str, Any]) -> Rotation | None:
    found = value.get("rotation")
    if found is None:
        return None
    if tensor.codec == RAW or any(part is None for part in found.values()):
        raise invalid(f"a rotation that is not possible with codec {tensor.codec}", **where)
    turned = Rotation(found["kind"], found["block"], found["seed"])
    if wrong := rotation.problem(turned, value["cols"]):
        raise invalid(wrong, **where)
    return turned


def _arrays(
    batch: Any, shape: _Shape, tensor: TensorEntry, where: dict[str, Any]
) -> dict[str, NDArray[Any] | None]:
    """The views that a tile of this codec has, and None for those it has not."""
    wanted: dict[str, int] = {}
    if tensor.codec != RAW:
        items = CODECS[tensor.codec].items
        wanted = {name: count(shape) for name, count in items.items()}
    found: dict[str, NDArray[Any] | None] = {}
    for name in sorted(schema.LARGE - {"codes"}):
        scalar = batch.column(name)[0] if name in batch.schema.names else None
        present = scalar is not None and scalar.is_valid
        if present and name in _OPTIONAL and tensor.codec != RAW:
            wanted[name] = shape.cols if name == "col_scale" else shape.rows
        if present != (name in wanted):
            what = "present" if present else "missing"
            raise invalid(f"{name} is {what} for codec {tensor.codec}", **where)
        found[name] = _view(scalar, name, wanted[name], where) if present else None
    _check_factors(found["col_scale"], where)
    return found


# Beside what the codec has.
_OPTIONAL = ("col_scale", "bias_correction")


def _view(scalar: Any, name: str, count: int, where: dict[str, Any]) -> NDArray[Any]:
    if name.endswith("_codes"):
        codes = np.frombuffer(scalar.as_buffer() or b"", np.uint8)
        if codes.size != count:
            raise invalid(f"{codes.size} bytes of {name}, need {count}", **where)
        return codes
    items = scalar.values
    if len(items) != count or items.null_count:
        raise invalid(f"{len(items)} {name} ({items.null_count} null), need {count}", **where)
    array: NDArray[Any] = items.to_numpy(zero_copy_only=True)
    return array


def _check_factors(factors: NDArray[Any] | None, where: dict[str, Any]) -> None:
    if factors is not None and not (np.isfinite(factors) & (factors != 0)).all():
        raise invalid("col_scale holds a factor that cannot be divided by", **where)


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
