"""The outside of an Arrow IPC file, checked before Arrow is asked to read it.

Arrow checks the structure of what it reads, but it would also inflate compressed buffers to
whatever size they announce, swap foreign byte orders, and hand fields to extension types. Our
parts have none of that, nor dictionaries; all of it is refused here from the flatbuffer metadata
alone, so that reading takes no more memory than the file has bytes.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, Final, Protocol

from arrowquant.artifact import schema
from arrowquant.artifact.manifest import invalid
from arrowquant.errors import ArtifactError

_MAGIC: Final = b"ARROW1"
_MAX_FOOTER: Final = 64 * 2**20
_MAX_METADATA: Final = 1 * 2**20  #: of one batch
_BLOCK: Final = struct.Struct("<qi4xq")  # offset, metadata length, body length

# Slots of the flatbuffer tables (Arrow format: File.fbs, Message.fbs).
_FOOTER_SCHEMA, _FOOTER_DICTIONARIES, _FOOTER_BATCHES = 1, 2, 3
_SCHEMA_ENDIANNESS, _SCHEMA_FIELDS = 0, 1
_FIELD_DICTIONARY, _FIELD_CHILDREN, _FIELD_METADATA = 4, 5, 6
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY = 1, 2, 3
_BATCH_ROWS, _BATCH_COMPRESSION = 0, 3
_HEADER_IS_BATCH: Final = 3
_DAMAGE: Final = (struct.error, IndexError, OverflowError)


class Stream(Protocol):
    """What is read from."""

    def seek(self, offset: int, /) -> int: ...

    def read(self, size: int, /) -> bytes: ...


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

    def number(self, slot: int, code: str) -> int:
        """A number, which is 0 where it is absent."""
        at = self.slot(slot)
        return 0 if at is None else _read(code, self._data, at)

    def tables(self, number: int, most: int) -> list[_Table]:
        """The tables of a vector, of which there may be `most`."""
        start, count = self.vector(number)
        if count > most:
            raise IndexError(f"{count} tables where there may be {most}")
        places = range(start, start + 4 * count, 4)
        return [_Table(self._data, at + _read("<I", self._data, at)) for at in places]


class Envelope:
    """The outside of a part. Raises invalid_artifact for what the format does not allow.

    stream   seekable, of `size` bytes; only the footer and the metadata of batches are read
    columns  how many the schema may have; None: as many as a part
    rows     how many a batch may have: from one of these to the other
    batches  how many the footer lists; each is to be checked before Arrow reads it
    """

    def __init__(
        self,
        stream: Stream,
        size: int,
        where: dict[str, Any],
        *,
        columns: int | None = None,
        rows: tuple[int, int] = (1, 1),
    ) -> None:
        self._stream, self._where, self._rows = stream, where, rows
        self._columns = schema.MAX_COLUMNS if columns is None else columns
        try:
            self._open(size)
        except _DAMAGE as error:
            raise _damaged(error, where) from None

    def check(self, number: int) -> int:
        """Bytes that reading this batch takes."""
        where = self._where | {"batch": number}
        try:
            return self._check(self._block(number), where)
        except _DAMAGE as error:
            raise _damaged(error, where) from None

    def place(self, number: int) -> tuple[int, int]:
        """Where a batch lies, inside the file: its first byte and the byte after its last."""
        where = self._where | {"batch": number}
        try:
            offset, metadata, body = self._block(number)
        except _DAMAGE as error:
            raise _damaged(error, where) from None
        self._check_place(offset, metadata, body, where)
        return offset, offset + metadata + body

    def _block(self, number: int) -> tuple[int, int, int]:
        offset, metadata, body = _BLOCK.unpack_from(
            self._footer, self._start + number * _BLOCK.size
        )
        return offset, metadata, body

    def _open(self, size: int) -> None:
        stream, where = self._stream, self._where
        stream.seek(0)
        head = stream.read(8)
        stream.seek(max(0, size - 10))
        tail = stream.read(10)
        if size < 32 or head[:6] != _MAGIC or tail[4:] != _MAGIC:
            raise invalid("not a complete Arrow file (is it truncated?)", **where, byte=size)
        length = _read("<i", tail, 0)
        if not 8 <= length <= min(size - 18, _MAX_FOOTER):
            raise invalid(f"an Arrow footer of {length} bytes is not possible", **where)
        self._end = size - 10 - length
        stream.seek(self._end)
        self._footer = stream.read(length)
        root = _Table.root(self._footer)
        if root.vector(_FOOTER_DICTIONARIES)[1]:
            raise invalid("the part holds dictionaries", **where)
        _check_schema(root.table(_FOOTER_SCHEMA), self._columns, where)
        self._start, self.batches = root.vector(_FOOTER_BATCHES)
        if self.batches > schema.MAX_BATCHES:
            raise invalid(f"{self.batches} batches, at most {schema.MAX_BATCHES}", **where)

    def _check(self, block: tuple[int, int, int], where: dict[str, Any]) -> int:
        offset, metadata, body = block
        self._check_place(offset, metadata, body, where)
        self._stream.seek(offset)
        data = self._stream.read(metadata)
        # Since Arrow 0.15 a message begins with a continuation marker; before it, with its length.
        message = data[8:] if data[:4] == b"\xff\xff\xff\xff" else data[4:]
        root = _Table.root(message)
        kind, header = root.slot(_MESSAGE_HEADER_TYPE), root.table(_MESSAGE_HEADER)
        if kind is None or header is None or message[kind] != _HEADER_IS_BATCH:
            raise invalid("it is not a record batch", **where, byte=offset)
        if root.number(_MESSAGE_BODY, "<q") != body:
            raise invalid("its two lengths disagree", **where, byte=offset)
        if header.slot(_BATCH_COMPRESSION) is not None:
            raise invalid("its buffers are compressed, which the format does not allow", **where)
        rows = header.number(_BATCH_ROWS, "<q")
        if not self._rows[0] <= rows <= self._rows[1]:
            most = f"at most {self._rows[1]}" if self._rows[1] > 1 else "not 1"
            raise invalid(f"the batch has {rows} rows, {most}", **where)
        return metadata + body

    def _check_place(self, offset: int, metadata: int, body: int, where: dict[str, Any]) -> None:
        if not (8 <= offset < self._end and 8 < metadata <= _MAX_METADATA and body >= 0):
            raise invalid("its place in the file is not possible", **where, byte=offset)
        if offset + metadata + body > self._end:
            raise invalid("it reaches past the end of the data", **where, byte=offset)


def check_envelope(path: Path, where: dict[str, Any]) -> None:
    """Raise invalid_artifact unless the file and every batch in it is as the format has them."""
    with path.open("rb") as stream:
        envelope = Envelope(stream, path.stat().st_size, where)
        for number in range(envelope.batches):
            envelope.check(number)


def _check_schema(found: _Table | None, columns: int, where: dict[str, Any]) -> None:
    """What Arrow would act upon while it reads a schema; names and types are compared after it."""
    if found is None or found.number(_SCHEMA_ENDIANNESS, "<h"):
        raise invalid("its schema is missing or of another byte order", **where)
    fields = found.tables(_SCHEMA_FIELDS, columns)
    items = [item for field in fields for item in field.tables(_FIELD_CHILDREN, 3)]
    for field in fields + items:
        if field.slot(_FIELD_METADATA) is not None or field.slot(_FIELD_DICTIONARY) is not None:
            raise invalid("a column has a dictionary or metadata (an extension type?)", **where)
    if any(item.vector(_FIELD_CHILDREN)[1] for item in items):
        raise invalid("its columns are nested deeper than lists of numbers and records", **where)


def _damaged(error: Exception, where: dict[str, Any]) -> ArtifactError:
    return invalid(f"its Arrow metadata is damaged: {error}", **where)


def _read(code: str, data: bytes, at: int) -> int:
    if at < 0:
        raise IndexError("an offset points before the start")
    value: int = struct.unpack_from(code, data, at)[0]
    return value
