"""`manifest.json` and `report.json`, read as untrusted input."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arrowquant.artifact import schema
from arrowquant.artifact.codecs import CODECS, RAW
from arrowquant.errors import ArtifactError

_REPORT_NAME = re.compile(r"report(-[0-9]{5,9})?\.json", re.ASCII)
_ACTIVATIONS_NAME = re.compile(r"activations(-[0-9]{5,9})?\.arrow", re.ASCII)
_PART_NAME = re.compile(r"part-[0-9]{5,9}\.arrow", re.ASCII)
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)


def invalid(detail: str, hint: str = "", **where: Any) -> ArtifactError:
    """An `invalid_artifact` error."""
    return ArtifactError("invalid_artifact", detail, hint, where)


@dataclass(frozen=True, slots=True)
class PartEntry:
    """A part as the manifest promises it."""

    name: str
    nbytes: int
    sha256: str
    batches: int | None


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor as the manifest describes it. `tiles` is None when it does not say where they are."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: str
    codec: str
    bits: int
    group_size: int
    state: str
    reason: str
    tiles: tuple[tuple[int, int], ...] | None
    tied_to: str | None = None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor in its original dtype."""
        return (self.elements * schema.DTYPE_BITS[self.dtype] + 7) // 8


@dataclass(frozen=True, slots=True)
class Manifest:
    """A checked manifest; `raw` is the JSON as it was read."""

    raw: dict[str, Any]
    version: int
    parts: tuple[PartEntry, ...]
    tensors: dict[str, TensorEntry] = field(default_factory=dict)


def read_json(path: Path, limit: int) -> tuple[dict[str, Any], str]:
    """A JSON object from a regular file of at most `limit` bytes, and its SHA-256."""
    try:
        if not path.is_file():
            raise invalid("the file is missing", file=path.name)
        # A read allocates what it may return: the file's size, not the limit.
        size = min(path.stat().st_size, limit)
        with path.open("rb") as stream:
            data = stream.read(size + 1)
    except OSError as error:
        raise invalid(f"the file cannot be read: {error.strerror}", file=path.name) from None
    if len(data) > size:
        raise invalid(f"the file has more than {size} bytes", file=path.name)
    try:
        value = json.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise invalid("the file is not UTF-8", file=path.name, byte=error.start) from None
    except json.JSONDecodeError as error:
        raise invalid(
            f"the file is not JSON: {error.msg}", file=path.name, byte=error.pos
        ) from None
    except (ValueError, RecursionError) as error:
        raise invalid(f"the file is not usable JSON: {error}", file=path.name) from None
    if not isinstance(value, dict):
        raise invalid("the file is not a JSON object", file=path.name)
    return value, hashlib.sha256(data).hexdigest()


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a folder."""
    raw, _ = read_json(folder / schema.MANIFEST, schema.MAX_MANIFEST_BYTES)
    if raw.get("format") != schema.FORMAT:
        raise invalid(f"format is {raw.get('format')!r:.60}, not {schema.FORMAT!r}")
    version = raw.get("format_version")
    if type(version) is not int or version not in schema.READABLE:
        known = " and ".join(map(str, schema.READABLE))
        raise ArtifactError(
            "unsupported_version",
            f"format version {version!r:.40}; this reader knows versions {known}",
            "Install a newer arrowquant.",
        )
    parts = tuple(_part(n, e) for n, e in enumerate(_list(raw, "parts", schema.MAX_PARTS)))
    if len({part.name for part in parts}) != len(parts):
        raise invalid("a part is listed twice", file=schema.MANIFEST)
    tensors: dict[str, TensorEntry] = {}
    for number, entry in enumerate(_list(raw, "tensors", schema.MAX_TENSORS)):
        tensor = _tensor(number, entry, len(parts), version)
        if tensor.name in tensors:
            raise invalid("the tensor is listed twice", tensor=tensor.name)
        tensors[tensor.name] = tensor
    return Manifest(raw, version, parts, _with_ties(raw.get("tied"), tensors))


def report_name(entry: Any) -> str:
    """The report's file name, from the manifest's entry: only a plain name of ours is believed."""
    name = entry.get("name") if isinstance(entry, dict) else None
    return name if isinstance(name, str) and _REPORT_NAME.fullmatch(name) else schema.REPORT


def activations_name(entry: Any) -> str:
    """The activation table's file name, likewise."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if isinstance(name, str) and _ACTIVATIONS_NAME.fullmatch(name):
        return name
    return schema.ACTIVATIONS


def _list(raw: dict[str, Any], key: str, limit: int) -> list[Any]:
    value = raw.get(key)
    if not isinstance(value, list):
        raise invalid(f"{key!r} is not a list", file=schema.MANIFEST)
    if len(value) > limit:
        raise invalid(f"{key!r} has {len(value)} entries, at most {limit}", file=schema.MANIFEST)
    return value


def _part(number: int, entry: Any) -> PartEntry:
    where: dict[str, Any] = {"file": schema.MANIFEST, "part": number}
    if not isinstance(entry, dict):
        raise invalid("a part is not an object", **where)
    name, sha256 = entry.get("name"), entry.get("sha256")
    nbytes: Any = entry.get("bytes")
    if not isinstance(name, str) or not _PART_NAME.fullmatch(name):
        raise invalid(f"part name {name!r:.80} is not of the form part-NNNNN.arrow", **where)
    if not _natural(nbytes):
        raise invalid("bytes is not a whole number", **where)
    if not isinstance(sha256, str) or not _SHA256.fullmatch(sha256):
        raise invalid("sha256 is not 64 hexadecimal digits", **where)
    batches = entry.get("batches")
    return PartEntry(name, nbytes, sha256, batches if _natural(batches) else None)


def _tensor(number: int, entry: Any, parts: int, version: int) -> TensorEntry:
    where: dict[str, Any] = {"file": schema.MANIFEST, "entry": number}
    if not isinstance(entry, dict):
        raise invalid("a tensor is not an object", **where)
    name = entry.get("name")
    if not isinstance(name, str) or not 0 < len(name) <= schema.MAX_NAME_CHARS:
        raise invalid(f"a tensor name must be 1 to {schema.MAX_NAME_CHARS} characters", **where)
    where = {"file": schema.MANIFEST, "tensor": name[:200]}
    shape, dtype, codec = entry.get("shape"), entry.get("dtype"), entry.get("codec")
    if not isinstance(shape, list) or len(shape) > schema.MAX_RANK:
        raise invalid(f"shape is not a list of at most {schema.MAX_RANK} sizes", **where)
    if not all(_natural(n) for n in shape) or math.prod(max(n, 1) for n in shape) > schema.MAX_DIM:
        raise invalid("shape is not made of whole numbers of a sensible size", **where)
    if not isinstance(dtype, str) or dtype not in schema.DTYPE_BITS:
        raise invalid(f"dtype {dtype!r:.40} is not known", **where)
    if not isinstance(codec, str) or not _known(codec, version):
        detail = f"codec {codec!r:.40} is not known in version {version}"
        raise invalid(detail, "Install a newer arrowquant.", **where)
    bits, group_size = entry.get("bits", 0), entry.get("group_size", 0)
    if not _natural(bits) or (bits != 0 if codec == RAW else not 1 <= bits <= 8):
        raise invalid(f"{bits!r:.20} bits do not go with codec {codec}", **where)
    if type(group_size) is not int or not schema.PER_TENSOR <= group_size < 2**31:
        raise invalid(f"group_size {group_size!r:.40} is not possible", **where)
    return TensorEntry(
        name,
        tuple(shape),
        dtype,
        _text(entry, "role"),
        codec,
        bits,
        group_size,
        _text(entry, "state"),
        _text(entry, "reason"),
        _tiles(entry.get("part_tiles"), parts, where),
        _text(entry, "tied_to") or None,
    )


def _known(codec: str, version: int) -> bool:
    return codec == RAW or (codec in CODECS and CODECS[codec].version <= version)


def _tiles(value: Any, parts: int, where: dict[str, Any]) -> tuple[tuple[int, int], ...] | None:
    if value is None:
        return None
    if not isinstance(value, list):
        raise invalid("part_tiles is not a list", **where)
    tiles = []
    for pair in value:
        if not isinstance(pair, list) or len(pair) != 2 or not all(_natural(n) for n in pair):
            raise invalid("part_tiles is not made of [part, batch] pairs", **where)
        if pair[0] >= parts:
            raise invalid(f"part_tiles names part {pair[0]} of {parts}", **where)
        tiles.append((pair[0], pair[1]))
    if len(set(tiles)) != len(tiles):
        raise invalid("part_tiles names a tile twice", **where)
    return tuple(tiles)


def _with_ties(tied: Any, tensors: dict[str, TensorEntry]) -> dict[str, TensorEntry]:
    """Add the names that share another tensor's bytes. A tie names a stored tensor directly."""
    ties = {name: entry.tied_to for name, entry in tensors.items() if entry.tied_to}
    if tied is not None:
        if not isinstance(tied, dict) or not all(isinstance(v, str) for v in tied.values()):
            raise invalid("'tied' does not map names to names", file=schema.MANIFEST)
        ties.update(tied)
    for name, target in ties.items():
        if not 0 < len(name) <= schema.MAX_NAME_CHARS:
            raise invalid("a tied name has a bad length", file=schema.MANIFEST)
        if target in ties or target not in tensors:
            raise invalid(
                f"the tensor is tied to {target!r:.200}, which is not stored", tensor=name[:200]
            )
        stored, own = tensors[target], tensors.get(name)
        tensors[name] = TensorEntry(
            name,
            own.shape if own else stored.shape,
            own.dtype if own else stored.dtype,
            (own.role if own else "") or stored.role,
            stored.codec,
            stored.bits,
            stored.group_size,
            "TIED",
            (own.reason if own else "") or f"shares the bytes of {target}",
            stored.tiles,
            target,
        )
        if (tensors[name].shape, tensors[name].dtype) != (stored.shape, stored.dtype):
            raise invalid(f"shape or dtype differ from those of {target!r:.200}", tensor=name[:200])
    return tensors


def _natural(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return value[:1024] if isinstance(value, str) else ""
