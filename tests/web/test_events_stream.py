"""Event streams, over a real server."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.domain.errors import ArrowQuantError
from service.web.routes import events
from tests.web.conftest import MiniWorker, job_body, serving


@pytest.fixture
def http(live: str, key: str) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=live, headers={"Authorization": f"Bearer {key}"}, timeout=10
    ) as client:
        yield client


@pytest.fixture
def job(http: httpx.Client) -> str:
    return str(http.post("/v1/jobs", json=job_body()).json()["id"])


class Stream:
    """Reads a stream as an EventSource does."""

    def __init__(
        self, http: httpx.Client, job: str, after: int | None = None, query: str = ""
    ) -> None:
        headers = {"Accept": "text/event-stream"}
        if after is not None:
            headers["Last-Event-ID"] = str(after)
        self._open = http.stream("GET", f"/v1/jobs/{job}/events{query}", headers=headers)
        self.fields: list[str] = []

    def __enter__(self) -> Stream:
        self.response = self._open.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._open.__exit__(*error)

    def __iter__(self) -> Iterator[tuple[int, str, Any]]:
        event: dict[str, str] = {}
        for line in self.response.iter_lines():
            self.fields.append(line)
            name, _, value = line.partition(": ")
            if line == "" and "data" in event:
                yield int(event["id"]), event["event"], json.loads(event["data"])
                event = {}
            elif name:
                event[name] = value


def test_a_stream_replays_and_follows_to_the_end(
    http: httpx.Client, job: str, worker: MiniWorker
) -> None:
    with Stream(http, job) as stream:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["x-accel-buffering"] == "no"
        assert stream.response.headers["cache-control"] == "no-store"
        events = iter(stream)
        assert next(events)[:2] == (1, "state")
        finishing = threading.Thread(target=worker.finish, args=(job,))
        finishing.start()
        rest = list(events)  # ends by itself
        finishing.join()
    assert [seq for seq, _, _ in rest] == list(range(2, len(rest) + 2))
    assert rest[-1][1] == "done"
    assert rest[-1][2]["data"]["state"] == "SUCCEEDED"
    assert "retry: 3000" in stream.fields
    page = http.get(f"/v1/jobs/{job}/events").json()["events"]
    assert [data for _, _, data in rest] == page[1:]


def test_a_client_that_reconnects_misses_nothing(
    http: httpx.Client, job: str, worker: MiniWorker
) -> None:
    worker.finish(job)
    with Stream(http, job) as stream:
        whole = list(stream)
    for after in (1, len(whole) - 1):
        with Stream(http, job, after=after) as stream:
            assert list(stream) == whole[after:]
    with Stream(http, job, query="?after=2") as stream:
        assert list(stream) == whole[2:]
    with Stream(http, job, after=len(whole)) as stream:
        assert stream.response.status_code == 204  # an EventSource stops at this


def test_the_end_of_an_earlier_attempt_does_not_end_the_stream(
    http: httpx.Client, job: str, worker: MiniWorker
) -> None:
    worker.fail(job)
    http.post(f"/v1/jobs/{job}/retry")
    with Stream(http, job) as stream:
        seen = []
        for _, kind, data in stream:
            seen.append(kind)
            if kind == "state" and data["data"]["state"] == "QUEUED" and "done" in seen:
                http.post(f"/v1/jobs/{job}/cancel")
    assert seen.count("done") == 2


def test_many_streams_share_one_query(
    http: httpx.Client,
    app: FastAPI,
    job: str,
    monkeypatch: pytest.MonkeyPatch,
    worker: MiniWorker,
) -> None:
    watch = app.state.context.watch
    heads, asked = watch._heads, []

    def counting(ids: Any) -> Any:
        asked.append(list(ids))
        return heads(ids)

    with ExitStack() as opened:
        streams = [opened.enter_context(Stream(http, job)) for _ in range(20)]
        lines = [stream.response.iter_lines() for stream in streams]
        for each in lines:
            while next(each) != "event: state":
                pass
        monkeypatch.setattr(watch, "_heads", counting)
        time.sleep(1.2)
        assert 1 <= len(asked) <= 6
        assert all(ids == [job] for ids in asked)
        worker.fail(job)
        for each in lines:
            assert "event: done" in list(each)


def test_a_stream_outlives_a_database_that_is_away(
    http: httpx.Client, app: FastAPI, job: str, worker: MiniWorker
) -> None:
    watch = app.state.context.watch
    heads, failed = watch._heads, threading.Event()

    def failing(ids: Any) -> Any:
        watch._heads = heads
        failed.set()
        raise ArrowQuantError("database_unavailable", "away for a moment")

    watch._heads = failing
    with Stream(http, job) as stream:
        events = iter(stream)
        next(events)
        assert failed.wait(5)
        worker.fail(job)
        assert [kind for _, kind, _ in events][-1] == "done"


def test_a_server_that_is_told_to_stop_does_not_wait_for_streams(
    app: FastAPI, key: str, worker: MiniWorker
) -> None:
    server = serving(app)
    url = server.__enter__()
    with httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}) as http:
        job = http.post("/v1/jobs", json=job_body()).json()["id"]
        with Stream(http, job) as stream:
            next(iter(stream))
            started = time.monotonic()
            server.__exit__()
            assert time.monotonic() - started < 6


def test_quiet_streams_are_kept_open_by_pings(
    http: httpx.Client, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "PING_S", 0.2)
    with Stream(http, job) as stream:
        lines = stream.response.iter_lines()
        assert any(line == ": ping" for line in lines)
