"""Looking into a calibration file: its index, by ranged reads, and whether it fits the source."""

from __future__ import annotations

from dataclasses import replace

from service.domain import arrow_header
from service.domain.calibration import (
    FORMAT,
    FORMAT_KEY,
    INDEX_KEY,
    MAX_INDEX_BYTES,
    CalibrationIndex,
    check_fit,
    invalid,
    parse_index,
)
from service.domain.catalog import Catalog, ObjectInfo
from service.domain.ports import ObjectStore
from service.domain.roles import rows_and_cols

FIRST_READ = 256 * 2**10


def look_into(store: ObjectStore, info: ObjectInfo) -> CalibrationIndex:
    """The index of a calibration file. Raises invalid_calibration, source_changed."""
    head = store.read(info.key, 0, min(info.size, FIRST_READ), info.etag) if info.size else b""
    try:
        stop = arrow_header.HEAD_BYTES + arrow_header.message_bytes(head)
        if stop > min(info.size, MAX_INDEX_BYTES + FIRST_READ):
            raise ValueError("its schema is larger than the file, or than an index may be")
        if stop > len(head):
            head += store.read(info.key, len(head), stop, info.etag)
        metadata = arrow_header.schema_metadata(head[arrow_header.HEAD_BYTES : stop])
    except ValueError as error:
        raise invalid(str(error), info.key) from None
    if metadata.get(FORMAT_KEY, FORMAT) != FORMAT:
        raise invalid(f"a calibration file of version {metadata[FORMAT_KEY]!r:.20}", info.key)
    known = FORMAT_KEY in metadata
    return parse_index(metadata.get(INDEX_KEY) if known else None, info.key, info.size, info.etag)


def with_calibration(catalog: Catalog, store: ObjectStore, info: ObjectInfo) -> Catalog:
    """The catalog that also knows what was measured. Raises calibration_mismatch, invalid_calibration."""
    index = look_into(store, info)
    matrices = {
        tensor.name: (tensor.nbytes, rows_and_cols(tensor.shape)[1])
        for tensor in catalog.tensors
        if len(tensor.shape) > 1
    }
    check_fit(index, matrices)
    return replace(catalog, calibration=index)
