"""Following a job: server-sent events, resumed after every break; polling where there are none."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from arrowquant.errors import ApiError, ArrowQuantError, JobFailed
from arrowquant.http import errors, sse
from arrowquant.http.calls import READ, Call, Emit, Open, Request, Script, Sleep, at
from arrowquant.http.core import Core, rows_of, worth_retrying

TERMINAL: Final = frozenset({"SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED"})
POLL_S: Final = 1.0
#: Failures in a row before giving up: with growing pauses some two minutes, which is longer than
#: the restart of a server takes.
PATIENCE: Final = 12
# The server sends a heartbeat every 15 s: three missed ones mean that the connection is dead.
CONNECT_S: Final = 30.0
SILENCE_S: Final = 45.0
_NO_STREAM: Final = frozenset({404, 405, 406, 415, 501})


@dataclass
class Deadline:
    """The end of somebody's patience; `seconds` None is none."""

    job_id: str
    seconds: float | None = None
    start: float = field(default_factory=time.monotonic)

    def left(self, most: float) -> float:
        """Seconds that may still pass, at most `most`."""
        if self.seconds is None:
            return most
        return max(0.0, min(most, self.start + self.seconds - time.monotonic()))

    def check(self) -> None:
        """Raise wait_timeout when it is over."""
        if self.seconds is not None and self.left(1.0) <= 0:
            raise ArrowQuantError(
                "wait_timeout",
                f"the job has not ended within {self.seconds:g} s",
                "It goes on; wait again, or cancel it.",
                {"job": self.job_id},
            )


def get_job(core: Core, job_id: str) -> Script[dict[str, Any]]:
    """The job as it is now."""
    return core.send(Call[dict[str, Any]]("GET", at("/v1/jobs/{}", job_id)))


def history(core: Core, job_id: str, after: int = 0) -> Script[int]:
    """Emit the events of a job so far, oldest first; the number of the last one."""
    path = at("/v1/jobs/{}/events", job_id)
    while True:
        page = yield from core.send(Call[Any]("GET", path, {"after": after}))
        events = rows_of(page, "events")
        for event in events:
            yield Emit(event)
        last = max((int(event.get("seq", 0)) for event in events), default=0)
        if last <= after:
            return after
        after = last


def wait(core: Core, job_id: str, timeout: float | None) -> Script[dict[str, Any]]:
    """Emit the events of a job until it has ended; the job, or JobFailed unless it succeeded."""
    deadline = Deadline(job_id, timeout)
    job = yield from get_job(core, job_id)
    if job.get("state") not in TERMINAL:
        yield from follow(core, job_id, 0, deadline)
        job = yield from get_job(core, job_id)
    if job.get("state") != "SUCCEEDED":
        raise JobFailed(job)
    return job


def follow(
    core: Core, job_id: str, after: int = 0, deadline: Deadline | None = None
) -> Script[None]:
    """Emit the events after `after` until the job has ended.

    No event is given twice or left out: each connection resumes behind the last one seen.
    """
    line = _Line(core, job_id, after, deadline or Deadline(job_id))
    streaming, failures = True, 0
    while True:
        before = line.seen
        try:
            done = yield from line.streamed() if streaming else line.polled()
        except ApiError as error:
            line.deadline.check()
            if streaming and (error.status in _NO_STREAM or error.code == "no_event_stream"):
                streaming = False
                continue
            failures = 1 if line.seen > before else failures + 1
            if not worth_retrying(error) or failures > PATIENCE:
                raise
            yield Sleep(line.deadline.left(core.policy.wait(failures, error)))
            continue
        failures = 0
        # The stream ended, or the page is exhausted. Has the job?
        if done or line.seen == before:
            job = yield from get_job(core, job_id)
            if job.get("state") in TERMINAL:
                yield from history(core, job_id, line.seen)
                return
        line.deadline.check()
        if not done:
            yield Sleep(line.deadline.left(POLL_S))


class _Line:
    """How far a job has been followed."""

    def __init__(self, core: Core, job_id: str, after: int, deadline: Deadline) -> None:
        self.core, self.deadline, self.seen = core, deadline, after
        self.job_id, self.path = job_id, at("/v1/jobs/{}/events", job_id)

    def polled(self) -> Script[bool]:
        """One page; whether it tells of an end."""
        page = yield from self.core.send(Call[Any]("GET", self.path, {"after": self.seen}))
        for event in rows_of(page, "events"):
            if self._new(event):
                yield Emit(event)
                if event.get("type") == "done":
                    return True
        return False

    def streamed(self) -> Script[bool]:
        """One connection, to its end; whether it told of the job's."""
        response = yield Open(self._request())
        if not response.is_success:
            raise errors.from_response(response)
        if response.status_code == 204:
            return False  # there is nothing past the last event
        if "text/event-stream" not in response.headers.get("content-type", ""):
            raise ApiError("no_event_stream", "the server sends no event stream here")
        parser = sse.Parser()
        while piece := (yield READ):
            for message in parser.feed(piece):
                self.deadline.check()
                event = {} if message.comment else sse.as_event(message)
                if event and self._new(event):
                    yield Emit(event)
                    # A retried job has ended before: see then what else there is.
                    if event.get("type") == "done":
                        return True
        return False

    def _new(self, event: dict[str, Any]) -> bool:
        seq = int(event.get("seq", 0))
        if seq and seq <= self.seen:
            return False
        self.seen = max(self.seen, seq)
        return True

    def _request(self) -> Request:
        headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
        if self.seen:
            headers["Last-Event-ID"] = str(self.seen)
        silence = max(0.1, self.deadline.left(SILENCE_S))
        call = Call[None]("GET", self.path, headers=headers, answer="text")
        return self.core.request(call, httpx.Timeout(CONNECT_S, read=silence))
