"""Following a job: server-sent events, resumed after every break; polling where there are none."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

import httpx

from arrowquant.errors import ApiError
from arrowquant.http import sse
from arrowquant.http.transport import Transport, worth_retrying

TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
POLL_S: Final = 1.0
#: Failures in a row before giving up: with growing pauses some two minutes, which is longer than
#: the restart of a server takes.
PATIENCE: Final = 12
# The server sends a heartbeat every 15 s: three missed ones mean that the connection is dead.
_TIMEOUT: Final = httpx.Timeout(30.0, read=45.0)
_NO_STREAM: Final = frozenset({404, 405, 406, 415, 501})


class Jobs(Protocol):
    """The two questions that following a job asks besides the stream."""

    def get(self, job_id: str) -> dict[str, Any]: ...
    def events(self, job_id: str, after: int = 0) -> Iterator[dict[str, Any]]: ...


def follow(
    client: Jobs,
    transport: Transport,
    path: str,
    job_id: str,
    after: int,
    deadline: float | None = None,
) -> Iterator[dict[str, Any] | None]:
    """Events after `after` until the job has ended; None now and then while nothing happens.

    No event is given twice or left out: each connection resumes behind the last one seen.
    """
    seen, streaming, failures = after, True, 0
    while True:
        before = seen
        try:
            if streaming:
                events = _stream(transport, path, seen, deadline)
            else:
                events = client.events(job_id, seen)
            done = False
            for event in events:
                if event is None:
                    yield None
                    continue
                seq = int(event.get("seq", 0))
                if seq and seq <= seen:
                    continue
                seen = max(seen, seq)
                yield event
                # A retried job has ended before: go on then, and see what else there is.
                done = event.get("type") == "done"
                if done:
                    break
        except ApiError as error:
            if streaming and (error.status in _NO_STREAM or error.code == "no_event_stream"):
                streaming = False
                continue
            failures = 0 if seen > before else failures + 1
            if not worth_retrying(error) or failures > PATIENCE:
                raise
            yield None
            transport.pause(failures, error)
            continue
        failures = 0
        # The stream ended, or the page is exhausted. Has the job?
        if (done or seen == before) and client.get(job_id).get("state") in TERMINAL:
            yield from client.events(job_id, seen)
            return
        yield None
        if not done:
            transport.sleep(_pause(deadline))


def _pause(deadline: float | None) -> float:
    return POLL_S if deadline is None else max(0.0, min(POLL_S, deadline - time.monotonic()))


def _stream(
    transport: Transport, path: str, seen: int, deadline: float | None
) -> Iterator[dict[str, Any] | None]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
    if seen:
        headers["Last-Event-ID"] = str(seen)
    timeout = _TIMEOUT
    if deadline is not None:
        timeout = httpx.Timeout(30.0, read=max(0.1, min(45.0, deadline - time.monotonic())))
    with transport.stream(path, headers=headers, timeout=timeout) as response:
        if response.status_code == 204:
            return  # there is nothing past the last event
        if "text/event-stream" not in response.headers.get("content-type", ""):
            raise ApiError("no_event_stream", "the server sends no event stream here")
        for message in sse.messages(response.iter_bytes()):
            yield None if message.comment else sse.as_event(message)
