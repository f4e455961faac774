"""The outside of an Arrow IPC file, checked before Arrow is asked to read it.

Arrow checks the structure of what it reads, but it would also inflate compressed buffers to
whatever size they announce. Version 1 parts are never compressed and hold no dictionaries; both
are refused here from the flatbuffer metadata alone, so that reading never allocates.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO, Final

from arrowquant.artifact import schema
from arrowquant.artifact.manifest import invalid

_MAGIC: Final = b"ARROW1"
_MAX_FOOTER: Final = 64 * 2**20
_MAX_METADATA: Final = 1 * 2**20
_BLOCK: Final = struct.Struct("<qi4xq")  # offset, metadata length, body length

# Slots of the flatbuffer tables (Arrow format: File.fbs, Message.fbs).
_FOOTER_DICTIONARIES, _FOOTER_BATCHES = 2, 3
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY = 1, 2, 3
_BATCH_COMPRESSION = 3
_HEADER_IS_BATCH: Final = 3


class _Table:
    """A flatbuffer table: just enough to look into a slot."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._at = data, position
        self._vtable = position - _read("<i", data, position)
        self._size = _read("<H", data, self._vtable)

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, _read("<I", data, 0))

    def slot(self, number: int) -> int | None:
        """Position of a field's value, or None where it is absent."""
        entry = 4 + 2 * number
        if entry + 2 > self._size:
            return None
        offset = _read("<H", self._data, self._vtable + entry)
        return self._at + offset if offset else None

    def vector(self, number: int) -> tuple[int, int]:
        """Position of the first item and the number of items."""
        at = self.slot(number)
        if at is None:
            return 0, 0
        start = at + _read("<I", self._data, at)
        return start + 4, _read("<I", self._data, start)

    def table(self, number: int) -> _Table | None:
        at = self.slot(number)
        return None if at is None else _Table(self._data, at + _read("<I", self._data, at))


def check_envelope(path: Path, where: dict[str, Any]) -> None:
    """Raise invalid_artifact unless the file is an uncompressed Arrow file without dictionaries."""
    with path.open("rb") as stream:
        try:
            _check(stream, path.stat().st_size, where)
        except (struct.error, IndexError, OverflowError) as error:
            raise invalid(f"its Arrow metadata is damaged: {error}", **where) from None


def _check(stream: BinaryIO, size: int, where: dict[str, Any]) -> None:
    head = stream.read(8)
    stream.seek(max(0, size - 10))
    tail = stream.read(10)
    if size < 32 or head[:6] != _MAGIC or tail[4:] != _MAGIC:
        raise invalid("not a complete Arrow file (is it truncated?)", **where, byte=size)
    length = _read("<i", tail, 0)
    if not 8 <= length <= min(size - 18, _MAX_FOOTER):
        raise invalid(f"an Arrow footer of {length} bytes is not possible", **where)
    stream.seek(size - 10 - length)
    footer = stream.read(length)
    root = _Table.root(footer)
    if root.vector(_FOOTER_DICTIONARIES)[1]:
        raise invalid("the part holds dictionaries", **where)
    start, count = root.vector(_FOOTER_BATCHES)
    if count > schema.MAX_BATCHES:
        raise invalid(f"{count} batches, at most {schema.MAX_BATCHES}", **where)
    for number in range(count):
        block = _BLOCK.unpack_from(footer, start + number * _BLOCK.size)
        _check_batch(stream, block, size - 10 - length, where | {"batch": number})


def _check_batch(
    stream: BinaryIO, block: tuple[int, int, int], end: int, where: dict[str, Any]
) -> None:
    offset, metadata, body = block
    if not (8 <= offset < end and 8 < metadata <= _MAX_METADATA and body >= 0):
        raise invalid("its place in the file is not possible", **where, byte=offset)
    if offset + metadata + body > end:
        raise invalid("it reaches past the end of the data", **where, byte=offset)
    stream.seek(offset)
    data = stream.read(metadata)
    # Since Arrow 0.15 a message begins with a continuation marker; before it, with its length.
    message = data[8:] if data[:4] == b"\xff\xff\xff\xff" else data[4:]
    root = _Table.root(message)
    kind, length = root.slot(_MESSAGE_HEADER_TYPE), root.slot(_MESSAGE_BODY)
    header = root.table(_MESSAGE_HEADER)
    if kind is None or header is None or message[kind] != _HEADER_IS_BATCH:
        raise invalid("it is not a record batch", **where, byte=offset)
    if (0 if length is None else _read("<q", message, length)) != body:
        raise invalid("its two lengths disagree", **where, byte=offset)
    if header.slot(_BATCH_COMPRESSION) is not None:
        raise invalid("its buffers are compressed, which version 1 does not allow", **where)


def _read(code: str, data: bytes, at: int) -> int:
    if at < 0:
        raise IndexError("an offset points before the start")
    value: int = struct.unpack_from(code, data, at)[0]
    return value
