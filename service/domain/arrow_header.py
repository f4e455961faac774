"""The metadata of an Arrow file's schema, from its first bytes: for those who may not load Arrow.

An Arrow IPC file begins with `ARROW1`, two zeros, a continuation marker, the length of the schema's
message, and the message: a flatbuffer (Arrow format: Message.fbs, Schema.fbs). Everything is checked
against what was read; nothing else of the file is looked at.
"""

from __future__ import annotations

import struct
from typing import Final

HEAD_BYTES: Final = 16
_START: Final = b"ARROW1\0\0\xff\xff\xff\xff"
_MESSAGE_KIND, _MESSAGE_HEADER, _SCHEMA_METADATA = 1, 2, 2
_KEY, _VALUE = 0, 1
_IS_SCHEMA: Final = 1
_MOST_KEYS: Final = 64


def message_bytes(head: bytes) -> int:
    """Length of the schema's message, which begins at HEAD_BYTES. Raises ValueError."""
    if len(head) < HEAD_BYTES or not head.startswith(_START):
        raise ValueError("it is not an Arrow file")
    length = int.from_bytes(head[12:16], "little", signed=True)
    if length <= 0:
        raise ValueError("its schema is missing")
    return length


def schema_metadata(message: bytes) -> dict[bytes, bytes]:
    """Keys and values of the schema in a message. Raises ValueError."""
    try:
        root = _Table(message, _number("<I", message, 0))
        kind = root.slot(_MESSAGE_KIND)
        if kind is None or message[kind] != _IS_SCHEMA:
            raise ValueError("its first message is no schema")
        schema = root.table(_MESSAGE_HEADER)
        return {entry.bytes(_KEY): entry.bytes(_VALUE) for entry in schema.tables(_SCHEMA_METADATA)}
    except (struct.error, IndexError) as error:
        raise ValueError(f"its schema is damaged: {error}") from None


class _Table:
    """A flatbuffer table: just enough to look into a slot."""

    def __init__(self, data: bytes, position: int) -> None:
        self._data, self._at = data, position
        self._vtable = position - _number("<i", data, position)
        self._size = _number("<H", data, self._vtable)

    def slot(self, number: int) -> int | None:
        entry = 4 + 2 * number
        if entry + 2 > self._size:
            return None
        offset = _number("<H", self._data, self._vtable + entry)
        return self._at + offset if offset else None

    def _target(self, number: int) -> int:
        at = self.slot(number)
        if at is None:
            raise IndexError("a field is missing")
        return at + _number("<I", self._data, at)

    def table(self, number: int) -> _Table:
        return _Table(self._data, self._target(number))

    def tables(self, number: int) -> list[_Table]:
        if self.slot(number) is None:
            return []
        start = self._target(number)
        count = _number("<I", self._data, start)
        if count > _MOST_KEYS:
            raise IndexError(f"{count} keys, at most {_MOST_KEYS}")
        places = range(start + 4, start + 4 + 4 * count, 4)
        return [_Table(self._data, at + _number("<I", self._data, at)) for at in places]

    def bytes(self, number: int) -> bytes:
        start = self._target(number)
        length = _number("<I", self._data, start)
        if start + 4 + length > len(self._data):
            raise IndexError("a text reaches past the end")
        return self._data[start + 4 : start + 4 + length]


def _number(code: str, data: bytes, at: int) -> int:
    if at < 0:
        raise IndexError("an offset points before the start")
    value: int = struct.unpack_from(code, data, at)[0]
    return value
