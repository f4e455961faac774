"""Arrow files that are made to harm whoever reads them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow as pa

CLAIMED: Final = 8 * 2**30
_PLAIN: Final = 2**20
_BLOCK: Final = struct.Struct("<qi4xq")
_MARK: Final = b"\xff\xff\xff\xff"


def write_bomb(
    path: Path, schema: pa.Schema, codec: str, values: pa.RecordBatch | None = None
) -> None:
    """A part whose compressed codes announce `CLAIMED` bytes."""
    batch = values if values is not None else _batch(schema)
    at = schema.get_field_index("codes")
    plain = pa.array([bytes(_PLAIN)], schema.field(at).type)
    columns = [plain if n == at else column for n, column in enumerate(batch.columns)]
    options = pa.ipc.IpcWriteOptions(compression=codec)
    with pa.ipc.new_file(str(path), schema, options=options) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    # A compressed buffer begins with the size that it will have.
    data = path.read_bytes()
    size = struct.pack("<q", _PLAIN)
    assert size in data
    path.write_bytes(data.replace(size, struct.pack("<q", CLAIMED)))


def _batch(schema: pa.Schema) -> pa.RecordBatch:
    made = {
        pa.utf8(): "w", pa.large_binary(): b"", pa.list_(pa.int64()): [1],
        pa.large_list(pa.float16()): [1.0],
    }  # fmt: skip
    values = [None if field.nullable else made.get(field.type, 1) for field in schema]
    arrays = [pa.array([v], f.type) for v, f in zip(values, schema, strict=True)]
    return pa.record_batch(arrays, schema=schema)


def _block(data: bytes) -> tuple[int, tuple[int, int, int]]:
    """Where the footer lists the first batch, and what it says of it: the one that fits."""
    footer = len(data) - 10 - struct.unpack_from("<i", data, len(data) - 10)[0]
    for at in range(footer, len(data) - 10 - _BLOCK.size):
        offset, metadata, body = _BLOCK.unpack_from(data, at)
        possible = offset >= 8 and metadata > 8 and body >= 0
        if possible and offset + metadata + body <= footer and data[offset : offset + 4] == _MARK:
            return at, (offset, metadata, body)
    raise AssertionError("no batch")


def _listed(**says: int) -> Callable[[bytes], bytes]:
    """The file with another place of its first batch."""

    def change(data: bytes) -> bytes:
        at, (offset, metadata, body) = _block(data)
        told = {"offset": offset, "metadata": metadata, "body": body} | says
        return data[:at] + _BLOCK.pack(*told.values()) + data[at + _BLOCK.size :]

    return change


def _footer_length(length: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:-10] + struct.pack("<i", length) + data[-6:]


def _rows(data: bytes) -> bytes:
    """A batch that says it has 2**40 rows: the number is written where the 1 of one row stands."""
    _, (offset, metadata, _) = _block(data)
    head = bytearray(data[offset + 8 : offset + metadata])
    table = _field(head, struct.unpack_from("<I", head, 0)[0], 2)
    batch = table + struct.unpack_from("<I", head, table)[0]
    struct.pack_into("<q", head, _field(head, batch, 0), 2**40)
    return data[: offset + 8] + bytes(head) + data[offset + metadata :]


def _field(data: bytes | bytearray, table: int, slot: int) -> int:
    vtable = table - int(struct.unpack_from("<i", data, table)[0])
    return table + int(struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0])


#: Changes to the bytes of a good file, by what they claim.
ATTACKS: Final[dict[str, Callable[[bytes], bytes]]] = {
    "huge metadata": _listed(metadata=2**31 - 1),
    "metadata past its cap": lambda data: _listed(metadata=2**20 + 8)(_padded(data)),
    "negative metadata": _listed(metadata=-8),
    "huge body": _listed(body=2**62),
    "body without end": _listed(body=2**63 - 1),
    "negative body": _listed(body=-1),
    "far offset": _listed(offset=2**62),
    "negative offset": _listed(offset=-(2**63)),
    "huge footer": _footer_length(2**31 - 1),
    "negative footer": _footer_length(-1),
    "endless rows": _rows,
    "cut short": lambda data: data[: len(data) // 2],
}


def _padded(data: bytes) -> bytes:
    """The same with 2 MiB in front of its footer, so that a large batch would fit."""
    footer = len(data) - 10 - struct.unpack_from("<i", data, len(data) - 10)[0]
    return data[:footer] + bytes(2 * 2**20) + data[footer:]
