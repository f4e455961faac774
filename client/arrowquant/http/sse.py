"""Server-sent events (WHATWG HTML, section 9.2), from bytes to events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from arrowquant.errors import ApiError

MAX_LINE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Message:
    """One event; `comment` is true for a heartbeat."""

    id: str = ""
    event: str = "message"
    data: str = ""
    comment: bool = False


class Parser:
    """Events in a stream of bytes, however it is cut. An unfinished one at the end is dropped, as
    the standard says."""

    def __init__(self) -> None:
        self._rest, self._after_cr = b"", False
        self._last_id, self._event, self._data = "", "", list[str]()

    def feed(self, received: bytes) -> Iterator[Message]:
        """The messages that these bytes complete."""
        for raw in self._lines(received):
            line = raw.decode("utf-8", "replace")
            if not line:
                if self._data:
                    yield Message(self._last_id, self._event or "message", "\n".join(self._data))
                self._event, self._data = "", []
                continue
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not name:
                yield Message(comment=True)
            elif name == "data":
                self._data.append(value)
            elif name == "event":
                self._event = value
            elif name == "id" and "\0" not in value:
                self._last_id = value

    def _lines(self, chunk: bytes) -> list[bytes]:
        """Lines ended by CR, LF or CRLF only: JSON may hold other signs that readers split at."""
        if self._after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if not chunk:
            return []
        self._after_cr = chunk.endswith(b"\r")
        whole = (self._rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *complete, self._rest = whole.split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ApiError("invalid_response", f"an event of more than {MAX_LINE_BYTES} bytes")
        return complete


def as_event(message: Message) -> dict[str, Any]:
    """The event as the JSON list of events shows it: {seq, type, time, data}."""
    try:
        value = json.loads(message.data)
    except ValueError:
        value = {"text": message.data}
    whole = isinstance(value, dict) and "data" in value and ("type" in value or "seq" in value)
    event = dict(value) if whole else {"data": value}
    event.setdefault("type", message.event)
    if "seq" not in event and message.id.isascii() and message.id.isdigit():
        event["seq"] = int(message.id)
    return event
