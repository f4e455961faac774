"""Many event streams at once, and what each of them costs the API in memory."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from arrowquant import AsyncClient

if TYPE_CHECKING:
    from benchmarks.load import Service

WATCHED = 10  #: jobs that the streams are spread over
SETTLE_S = 1.0
PATIENCE_S = 60.0


async def hold_streams(service: Service, number: int) -> dict[str, Any]:
    """Open streams on jobs that wait, measure the API's memory, end the jobs, read to the end."""
    async with AsyncClient(service.url, service.key) as client:
        jobs = [await _waiting_job(client, n) for n in range(WATCHED)]
        await _open_and_leave(service, jobs[0], 20)  # what is loaded once is not a stream's
        before = service.api.memory_info().rss
        streams = await asyncio.gather(
            *(_Stream.open(service, jobs[n % WATCHED]) for n in range(number))
        )
        await asyncio.sleep(SETTLE_S)
        after = service.api.memory_info().rss
        began = time.monotonic()
        for job in jobs:
            await client.cancel(job)
        complete = await asyncio.gather(*(stream.to_the_end() for stream in streams))
        told = time.monotonic() - began
    return {
        "open": len(streams),
        "complete": sum(complete),
        "rss_before_bytes": before,
        "rss_open_bytes": after,
        "bytes_per_stream": (after - before) / number,
        "told_s": told,
    }


async def _waiting_job(client: AsyncClient, number: int) -> str:
    job = await client.submit(
        {
            "source": {"connection": "models", "prefix": "tiny/"},
            "output": {"connection": "artifacts", "prefix": f"watched-{number}/"},
        }
    )
    return job["id"]


async def _open_and_leave(service: Service, job: str, number: int) -> None:
    streams = [await _Stream.open(service, job) for _ in range(number)]
    for stream in streams:
        stream.close()
    await asyncio.sleep(SETTLE_S)


class _Stream:
    """One connection with server-sent events: a bare socket, so that 500 cost little here."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, service: Service, job: str) -> _Stream:
        """Ask for the events of a job, and wait for the first."""
        address = urlsplit(service.url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(
            f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Authorization: Bearer {service.key}\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        status = await asyncio.wait_for(reader.readline(), PATIENCE_S)
        if b" 200 " not in status:
            raise RuntimeError(f"a stream was answered {status.decode('latin-1').strip()}")
        await asyncio.wait_for(reader.readuntil(b"event: state"), PATIENCE_S)
        return cls(reader, writer)

    async def to_the_end(self) -> bool:
        """Whether the job's end was told before the stream ended."""
        try:
            await asyncio.wait_for(self._reader.readuntil(b"event: done"), PATIENCE_S)
            return True
        except (asyncio.IncompleteReadError, TimeoutError):
            return False
        finally:
            self.close()

    def close(self) -> None:
        self._writer.close()
