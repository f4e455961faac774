"""JSON Lines out of a body that is still coming in, a bounded piece at a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Final

from starlette.requests import ClientDisconnect, Request

from service.domain.errors import ArrowQuantError
from service.usecases.batches import Line

# Lines handed on together: as many as are checked in some tens of milliseconds.
LINES_AT_ONCE: Final = 250
BYTES_AT_ONCE: Final = 2**20
# A client that sends nothing for so long is gone; one that sends a byte now and then is no better.
SILENCE_S: Final = 30.0
UPLOAD_S: Final = 600.0
_BOM: Final = b"\xef\xbb\xbf"


async def numbered_lines(
    request: Request, max_line_bytes: int, max_lines: int
) -> AsyncIterator[list[Line]]:
    """The lines of a body in runs, with their numbers; blank ones are left out but counted.

    Raises upload_timeout for a body that does not come, payload_too_large for too many lines.
    """
    splitter = Splitter(max_line_bytes)
    lines: list[Line] = []
    count = size = 0
    async for chunk in _chunks(request):
        for line in splitter.feed(chunk):
            count += 1
            if count > max_lines:
                raise _too_many(max_lines)
            lines.append(line)
            size += len(line.text or b"")
            if len(lines) >= LINES_AT_ONCE or size >= BYTES_AT_ONCE:
                yield lines
                lines, size = [], 0
    last = splitter.end()
    if count + len(last) > max_lines:
        raise _too_many(max_lines)
    if lines or last:
        yield lines + last


class Splitter:
    """Cuts chunks into lines and never holds more than one line's worth."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max = max_line_bytes
        self._rest = bytearray()
        self._too_long = False
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in this chunk."""
        start = 0
        while (stop := chunk.find(b"\n", start)) >= 0:
            self._keep(memoryview(chunk)[start:stop])
            start = stop + 1
            if (line := self._take()) is not None:
                yield line
        self._keep(memoryview(chunk)[start:])

    def end(self) -> list[Line]:
        """The last line, if it does not end in a newline."""
        if not self._rest and not self._too_long:
            return []
        line = self._take()
        return [line] if line is not None else []

    def _keep(self, part: memoryview) -> None:
        if self._too_long:
            return
        self._rest += part
        if len(self._rest) > self._max:
            self._too_long = True
            self._rest.clear()

    def _take(self) -> Line | None:
        self._number += 1
        text: bytes | None = None if self._too_long else bytes(self._rest)
        self._rest.clear()
        self._too_long = False
        if text is not None:
            text = text.removeprefix(_BOM) if self._number == 1 else text
            if not text.strip():
                return None
        return Line(self._number, text)


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    deadline = time.monotonic() + UPLOAD_S
    stream = aiter(request.stream())
    while True:
        left = min(SILENCE_S, deadline - time.monotonic())
        try:
            async with asyncio.timeout(max(0.0, left)):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise _timeout(f"nothing came for {left:.0f} s") from None
        except ClientDisconnect:
            raise _timeout("the connection was closed before its end") from None
        yield chunk


def _timeout(detail: str) -> ArrowQuantError:
    return ArrowQuantError(
        "upload_timeout",
        f"the batch did not come in: {detail}",
        "Send it again, in smaller batches if the connection is slow. Nothing was queued.",
    )


def _too_many(max_lines: int) -> ArrowQuantError:
    return ArrowQuantError(
        "payload_too_large",
        f"the batch has more than {max_lines} lines",
        "Send it as several batches. Nothing was queued.",
    )
