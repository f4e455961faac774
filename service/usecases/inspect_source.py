"""Look into a source: its objects pinned by ETag, its headers, and the tensors stored twice.

Only headers are read, and a few samples of tensors that might be equal. Whatever the source claims
about itself is untrusted; every loop here has a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice

from service.domain.catalog import (
    MAX_INDEX_BYTES,
    MAX_OBJECTS,
    Catalog,
    ObjectInfo,
    assemble,
    check_index,
    parse_index,
)
from service.domain.errors import ArrowQuantError
from service.domain.modality import Detection
from service.domain.ports import ObjectStore
from service.domain.safetensors import (
    LENGTH_BYTES,
    MAX_TENSORS,
    HeaderTensor,
    header_length,
    parse_with_metadata,
)
from service.usecases.find_ties import find_ties
from service.usecases.look import beside, look

FIRST_READ = 256 * 2**10
MAX_LISTED = 20_000
REQUESTS_AT_ONCE = 8

INDEX = ".safetensors.index.json"
WEIGHTS = ".safetensors"
_OTHER_WEIGHTS = (
    *(".bin", ".pt", ".pth", ".ckpt", ".pkl", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx"),
    *(".npz", ".npy", ".zip", ".tar", ".gz"),
)
_CONVERT = "Convert the weights to safetensors where they were made; this service never unpickles."


def inspect(store: ObjectStore, prefix: str, *, ties: bool = True) -> Catalog:
    """The catalog of the model at a prefix, or in one `.safetensors` object.

    ties    also find tensors with the same bytes; reads the data of those that might be

    Raises source_not_found, source_changed, unsupported_format, unsupported_dtype,
    invalid_safetensors_header, invalid_index, tensor_missing_in_index.
    """
    if prefix.endswith(WEIGHTS):
        catalog, metadata = _read_catalog(store, [store.stat(prefix)])
        catalog = replace(catalog, looks=look(store, beside(store, prefix), metadata, catalog))
        return _with_ties(store, catalog) if ties else catalog
    listed = list(islice(store.list(prefix), MAX_LISTED + 1))
    if len(listed) > MAX_LISTED:
        raise ArrowQuantError(
            "source_not_found",
            f"more than {MAX_LISTED} objects lie below the prefix",
            "Name the prefix that holds the .safetensors objects of one model.",
            {"prefix": prefix},
        )
    here = {
        info.key.removeprefix(prefix): info
        for info in listed
        if "/" not in info.key.removeprefix(prefix).lstrip("/")
    }
    indexes = sorted(name for name in here if name.endswith(INDEX))
    if len(indexes) > 1:
        raise ArrowQuantError(
            "invalid_index",
            f"there are {len(indexes)} indexes: {', '.join(indexes[:4])}",
            "Leave one of them, or name one .safetensors object.",
            {"prefix": prefix},
        )
    if indexes:
        catalog, metadata = _by_index(store, prefix, here, here[indexes[0]])
    else:
        shards = [info for name, info in sorted(here.items()) if name.endswith(WEIGHTS)]
        if not shards:
            raise _nothing_usable(prefix, list(here), listed)
        catalog, metadata = _read_catalog(store, shards)
    catalog = replace(catalog, looks=look(store, here, metadata, catalog))
    return _with_ties(store, catalog) if ties else catalog


def reopen(
    store: ObjectStore,
    objects: list[ObjectInfo],
    ties: dict[str, str],
    ignored: Sequence[str] = (),
    looks: Detection = Detection(),
) -> Catalog:
    """The catalog of objects that were pinned before, from their headers as they are now.

    Raises source_changed if any of them is no longer the object that was pinned.
    """
    catalog, _ = _read_catalog(store, objects)
    return replace(catalog, ties=dict(ties), ignored=tuple(ignored), looks=looks)


def _by_index(
    store: ObjectStore, prefix: str, here: dict[str, ObjectInfo], index: ObjectInfo
) -> tuple[Catalog, dict[str, str]]:
    if index.size > MAX_INDEX_BYTES:
        raise ArrowQuantError(
            "invalid_index",
            f"the index has {index.size} bytes (at most {MAX_INDEX_BYTES})",
            "Write the index again with the model.",
            {"object": index.key},
        )
    weight_map = parse_index(store.read(index.key, 0, index.size, index.etag), index.key)
    shards = []
    for name in sorted(set(weight_map.values())):
        if name not in here:
            raise ArrowQuantError(
                "source_not_found",
                f"the index names {name}, which is not there",
                "Upload the missing shard.",
                {"object": prefix + name, "index": index.key},
            )
        shards.append(here[name])
    catalog, metadata = _read_catalog(store, shards)
    check_index(weight_map, catalog, index.key)
    named = set(weight_map.values())
    others = (name for name in sorted(here) if name.endswith(WEIGHTS) and name not in named)
    return replace(catalog, ignored=tuple(others)), metadata


def _read_catalog(store: ObjectStore, shards: list[ObjectInfo]) -> tuple[Catalog, dict[str, str]]:
    """The catalog, and the metadata of the first object."""
    if len(shards) > MAX_OBJECTS:
        raise ArrowQuantError(
            "invalid_index",
            f"the source has {len(shards)} .safetensors objects (at most {MAX_OBJECTS})",
            "Merge the shards, or name a smaller prefix.",
        )
    headers: list[tuple[ObjectInfo, list[HeaderTensor]]] = []
    first_metadata: dict[str, str] = {}
    total = 0
    with ThreadPoolExecutor(REQUESTS_AT_ONCE, "inspect") as pool:
        # In batches, so that only a few headers are in memory at once.
        for first in range(0, len(shards), REQUESTS_AT_ONCE):
            batch = shards[first : first + REQUESTS_AT_ONCE]
            texts = list(pool.map(lambda info: _read_header(store, info), batch))
            for info, text in zip(batch, texts, strict=True):
                tensors, metadata = parse_with_metadata(text, info.size, info.key)
                first_metadata = first_metadata if headers else metadata
                total += len(tensors)
                if total > MAX_TENSORS:
                    raise ArrowQuantError(
                        "invalid_safetensors_header",
                        f"the source has more than {MAX_TENSORS} tensors",
                        "Name a smaller prefix.",
                        {"object": info.key},
                    )
                headers.append((info, tensors))
    return assemble(headers), first_metadata


def _read_header(store: ObjectStore, info: ObjectInfo) -> bytes:
    """The JSON of an object's header: one request for all but the largest."""
    head = store.read(info.key, 0, min(info.size, FIRST_READ), info.etag) if info.size else b""
    stop = LENGTH_BYTES + header_length(head, info.size, info.key)
    if stop > len(head):
        head += store.read(info.key, len(head), stop, info.etag)
    return head[LENGTH_BYTES:stop]


def _with_ties(store: ObjectStore, catalog: Catalog) -> Catalog:
    return replace(catalog, ties=find_ties(store, catalog))


def _nothing_usable(prefix: str, here: list[str], listed: list[ObjectInfo]) -> ArrowQuantError:
    """Say what is there instead of safetensors."""
    where = {"prefix": prefix} if prefix else {}
    other = sorted(name for name in here if name.lower().endswith(_OTHER_WEIGHTS))
    if other:
        detail = f"there is no .safetensors object, only {_some(other)}"
        return ArrowQuantError("unsupported_format", detail, _CONVERT, where | {"object": other[0]})
    below = sorted({info.key.rpartition("/")[0] for info in listed if info.key.endswith(WEIGHTS)})
    if below:
        detail = (
            f"no .safetensors object lies directly in the prefix, but below it in {_some(below)}"
        )
        return ArrowQuantError("source_not_found", detail, "Name one of those prefixes.", where)
    found = f"only {_some(sorted(here))}" if here else "nothing at all"
    return ArrowQuantError(
        "source_not_found",
        f"no .safetensors object lies in the prefix; it holds {found}",
        "Check the connection and the prefix.",
        where,
    )


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
