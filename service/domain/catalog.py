"""What a source holds: its objects, pinned by ETag, and its tensors in the order of their bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from service.domain.calibration import CalibrationIndex
from service.domain.errors import ArrowQuantError
from service.domain.location import plain_name
from service.domain.modality import Detection
from service.domain.safetensors import DTYPE_BITS, HeaderTensor, plain_text

MAX_INDEX_BYTES = 64 * 2**20
MAX_OBJECTS = 4096


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object of a store: key relative to the connection, bytes, entity tag."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor and where its bytes are. `start` is absolute in the object."""

    name: str
    object: int
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int

    @property
    def elements(self) -> int:
        return self.nbytes * 8 // DTYPE_BITS[self.dtype]


@dataclass(frozen=True, slots=True)
class Catalog:
    """All that planning knows of a source.

    ties     name -> name of the tensor with the very same bytes that stands before it
    ignored  weights that lie beside the index and are not in it, by name
    looks    what kind of model it seems to be
    calibration  what was measured of its weights, if the recipe names a file
    """

    objects: tuple[ObjectInfo, ...]
    tensors: tuple[SourceTensor, ...]
    ties: dict[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    looks: Detection = field(default_factory=Detection)
    calibration: CalibrationIndex | None = None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def assemble(shards: list[tuple[ObjectInfo, list[HeaderTensor]]]) -> Catalog:
    """Join the headers of a source's objects; a name may stand in one object only."""
    seen: dict[str, str] = {}
    tensors: list[SourceTensor] = []
    for number, (info, headers) in enumerate(shards):
        for head in headers:
            if head.name in seen:
                raise ArrowQuantError(
                    "invalid_index",
                    f"the tensor stands in {seen[head.name]} and again in {info.key}",
                    "Leave one of the two in the source prefix.",
                    {"tensor": head.name, "object": info.key},
                )
            seen[head.name] = info.key
            nbytes = head.stop - head.start
            tensors.append(
                SourceTensor(head.name, number, head.dtype, head.shape, head.start, nbytes)
            )
    if not tensors:
        objects = ", ".join(info.key for info, _ in shards[:3])
        raise ArrowQuantError(
            "source_not_found",
            "the source holds no tensors",
            "Check that it was written whole.",
            {"object": objects},
        )
    return Catalog(tuple(info for info, _ in shards), tuple(tensors))


def parse_index(data: bytes, key: str) -> dict[str, str]:
    """The `weight_map` of a `*.safetensors.index.json`: tensor name -> plain file name."""

    def bad(detail: str, **where: Any) -> ArrowQuantError:
        return ArrowQuantError(
            "invalid_index",
            detail,
            "Write the index again with the model.",
            {"object": key} | where,
        )

    try:
        index = json.loads(data.decode("utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise bad(f"the index is not JSON: {error}") from None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise bad("the index has no weight_map")
    for name, file in weight_map.items():
        if not plain_text(name):
            raise bad(f"the name {name[:80]!r} holds control characters or is not Unicode")
        if not isinstance(file, str) or not plain_name(file) or not file.endswith(".safetensors"):
            raise bad(f"{str(file)[:80]!r} is not a plain .safetensors file name", tensor=name)
    return dict(weight_map)


def check_index(weight_map: dict[str, str], catalog: Catalog, key: str) -> None:
    """Every tensor of the index stands where it says, and no shard holds one it does not name."""
    held = {t.name: catalog.objects[t.object].key.rpartition("/")[2] for t in catalog.tensors}
    for name, file in weight_map.items():
        if held.get(name) != file:
            found = held.get(name)
            detail = f"the index puts it in {file}, " + (
                f"it is in {found}" if found else "which does not hold it"
            )
            hint = "Write the index again with the model."
            where = {"object": key, "tensor": name}
            raise ArrowQuantError("invalid_index", detail, hint, where)
    for name in held:
        if name not in weight_map:
            raise ArrowQuantError(
                "tensor_missing_in_index",
                "a shard holds a tensor that the index does not name",
                "Write the index again with the model.",
                {"object": key, "tensor": name},
            )
