"""Server-sent events (WHATWG HTML, section 9.2), from bytes to events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
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


def messages(chunks: Iterable[bytes]) -> Iterator[Message]:
    """Events in a stream of bytes. An unfinished one at the end is dropped, as the standard says."""
    last_id, event, data = "", "", list[str]()
    for raw in _lines(chunks):
        line = raw.decode("utf-8", "replace")
        if not line:
            if data:
                yield Message(last_id, event or "message", "\n".join(data))
            event, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            yield Message(comment=True)
        elif name == "data":
            data.append(value)
        elif name == "event":
            event = value
        elif name == "id" and "\0" not in value:
            last_id = value


def _lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Lines ended by CR, LF or CRLF only: JSON may hold other signs that text readers split at."""
    rest, after_cr = b"", False
    for received in chunks:
        chunk = received
        if after_cr and chunk.startswith(b"\n"):
            chunk = chunk[1:]
        if not chunk:
            continue
        after_cr = chunk.endswith(b"\r")
        *complete, rest = (rest + chunk).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ApiError("invalid_response", f"an event of more than {MAX_LINE_BYTES} bytes")
        yield from complete


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
