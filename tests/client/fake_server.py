"""A server in memory that speaks the API as documented, for the client's tests."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx

URL = "http://quant.test"
KEY = "secret-key"


def problem(status: int, code: str, **more: Any) -> httpx.Response:
    """RFC 9457 problem details."""
    body = {"type": "about:blank", "title": code, "status": status, "code": code, **more}
    headers = {"content-type": "application/problem+json", "x-request-id": "req_1"}
    return httpx.Response(status, content=json.dumps(body), headers=headers)


class FakeServer:
    """One tenant. `fail` holds responses or exceptions given before the real answers."""

    def __init__(self, artifact: Path | None = None) -> None:
        self.jobs: dict[str, dict[str, Any]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self.by_key: dict[str, str] = {}
        self.requests: list[httpx.Request] = []
        self.fail: list[httpx.Response | Exception] = []
        self.break_stream_after: list[int] = []
        self.streams = True
        self.end_state = "SUCCEEDED"
        self.artifact = artifact
        self.cut_downloads = 0
        self.redirect_to = ""
        self.lose = 0  #: answers that get lost after the request was carried out
        self.hang_after: int | None = None
        self.open_streams = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        if self.fail:
            failure = self.fail.pop(0)
            if isinstance(failure, Exception):
                raise failure
            return failure
        if request.url.host == "bucket.test":
            return self._bytes(request, request.url.path.rpartition("/")[2])
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return problem(401, "unauthorized", detail="no valid key was given")
        response = self._route(request, request.url.path.strip("/").split("/"))
        if self.lose:
            self.lose -= 1
            raise httpx.ReadError("connection lost")
        return response

    def _route(self, request: httpx.Request, parts: list[str]) -> httpx.Response:
        if request.method == "POST" and parts == ["v1", "jobs"]:
            return self._submit(request)
        if parts == ["v1", "plans"]:
            return httpx.Response(200, json={"totals": {"units": 1}})
        if parts == ["v1", "jobs"]:
            return self._list(request)
        job = self.jobs.get(parts[2])
        if job is None:
            return problem(404, "not_found", detail="there is no such job", where={"job": parts[2]})
        return self._below(request, job, parts[3:])

    def _submit(self, request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if body.get("recipe", {}).get("bits") == 5:
            errors = [{"pointer": "/recipe/bits", "detail": "must be 2, 3, 4 or 8"}]
            return problem(422, "invalid_spec", detail="the request is not valid", errors=errors)
        key = request.headers["idempotency-key"]
        if key not in self.by_key:
            self.by_key[key] = self.add(body.get("name", ""))["id"]
        return httpx.Response(202, json=self.jobs[self.by_key[key]])

    def add(self, name: str = "", state: str = "QUEUED") -> dict[str, Any]:
        """A job, with the history it will have."""
        number = len(self.jobs)
        job: dict[str, Any] = {
            "id": f"job_{number}", "name": name, "labels": {}, "state": state, "phase": None,
            "attempt": 1, "progress": {"percent": 0.0, "bytes_total": 1000, "bytes_done": 0},
            "error": None, "warnings": [], "summary": None,
            "create_time": "2026-01-02T03:04:05Z", "start_time": None, "end_time": None,
        }  # fmt: skip
        self.jobs[job["id"]] = job
        history = [
            ("state", {"state": "RUNNING", "phase": "QUANTIZING", "attempt": 1}),
            ("progress", {"percent": 50.0, "bytes_total": 1000, "bytes_done": 500}),
            ("warning", {"code": "size", "message": "larger than\u2028planned"}),
            ("state", {"state": self.end_state, "phase": None, "attempt": 1}),
            ("done", {"state": self.end_state, "attempt": 1}),
        ]
        self.events[job["id"]] = [
            {"seq": n, "type": kind, "time": "2026-01-02T03:04:06Z", "data": data}
            for n, (kind, data) in enumerate(history, 1)
        ]
        return job

    def finish(self, job: dict[str, Any]) -> None:
        """What a watcher has seen the end of, has ended."""
        job["state"] = self.end_state
        if self.end_state == "FAILED":
            job["error"] = {
                "code": "source_changed", "message": "the object changed", "hint": "Submit anew.",
                "fault": "user", "retryable": False, "where": {"object": "a.safetensors"},
            }  # fmt: skip

    def _list(self, request: httpx.Request) -> httpx.Response:
        size = int(request.url.params.get("page_size", 2))
        start = int(request.url.params.get("page_token") or 0)
        state = request.url.params.get("state")
        found = [j for j in self.jobs.values() if state in (None, j["state"])]
        more = str(start + size) if start + size < len(found) else None
        return httpx.Response(
            200, json={"jobs": found[start : start + size], "next_page_token": more}
        )

    def _below(
        self, request: httpx.Request, job: dict[str, Any], rest: list[str]
    ) -> httpx.Response:
        match rest:
            case [] if request.method == "DELETE":
                del self.jobs[job["id"]]
                return httpx.Response(204)
            case []:
                return httpx.Response(200, json=job)
            case ["cancel"]:
                job["state"] = "CANCELLED"
                return httpx.Response(202, json=job)
            case ["retry"]:
                return problem(409, "job_active", detail="the job has not ended", hint="Cancel it.")
            case ["events"]:
                return self._events(request, job)
            case ["tensors"]:
                page = {"tensors": [{"name": "w", "state": "DONE"}], "next_page_token": None}
                return httpx.Response(200, json=page)
            case ["report"]:
                return httpx.Response(200, json={"summary": {}})
            case ["artifacts"]:
                return httpx.Response(200, json={"artifacts": self.files()})
            case ["artifacts", name, "download"]:
                if self.redirect_to:
                    return httpx.Response(307, headers={"location": f"{self.redirect_to}/{name}"})
                return self._bytes(request, name)
        return problem(404, "not_found")

    def _events(self, request: httpx.Request, job: dict[str, Any]) -> httpx.Response:
        after = int(request.headers.get("last-event-id") or request.url.params.get("after") or 0)
        events = [e for e in self.events[job["id"]] if e["seq"] > after]
        if "text/event-stream" not in request.headers["accept"]:
            self.finish(job)
            return httpx.Response(200, json={"events": events, "next_after": after})
        if not self.streams:
            return problem(406, "not_acceptable")
        if not events:
            self.finish(job)
            return httpx.Response(204)
        limit = self.break_stream_after.pop(0) if self.break_stream_after else None
        headers = {"content-type": "text/event-stream; charset=utf-8"}
        return httpx.Response(200, headers=headers, stream=Stream(self, job, events, limit))

    def files(self) -> list[dict[str, Any]]:
        assert self.artifact is not None
        return [
            {
                "name": path.name,
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "download_url": "unused",
            }
            for path in sorted(self.artifact.iterdir())
        ]

    def _bytes(self, request: httpx.Request, name: str) -> httpx.Response:
        assert self.artifact is not None
        data = (self.artifact / name).read_bytes()
        headers, status = {"content-length": str(len(data))}, 200
        if wanted := request.headers.get("range"):
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            headers = {"content-range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
            data, status = data[start:], 206
        cut = self.cut_downloads > 0 and name.startswith("part")
        self.cut_downloads -= cut
        return httpx.Response(status, headers=headers, stream=Pieces(data, cut))


class Both(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body for blocking clients and others."""

    def __iter__(self) -> Iterator[bytes]:
        raise NotImplementedError

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece

    async def aclose(self) -> None:
        self.close()


class Pieces(Both):
    """A body that may break off in the middle."""

    def __init__(self, data: bytes, cut: bool) -> None:
        self.data, self.cut = data, cut

    def __iter__(self) -> Iterator[bytes]:
        half = len(self.data) // 2
        yield self.data[:half]
        if self.cut:
            raise httpx.ReadError("connection lost")
        yield self.data[half:]


class Stream(Both):
    """Server-sent events in small pieces, with heartbeats, CRLF and a break where wanted."""

    def __init__(
        self,
        server: FakeServer,
        job: dict[str, Any],
        events: list[dict[str, Any]],
        limit: int | None,
    ) -> None:
        self.server, self.job, self.events, self.limit = server, job, events, limit
        server.open_streams += 1

    def close(self) -> None:
        self.server.open_streams -= 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            if not piece:
                await asyncio.Event().wait()
            yield piece

    def __iter__(self) -> Iterator[bytes]:
        yield b"retry: 3000\r\n\r\n: ping\r\n\r\n"
        for number, event in enumerate(self.events):
            if number == self.limit:
                raise httpx.ReadError("connection lost")
            if number == self.server.hang_after:
                yield b""
            data = json.dumps(event, ensure_ascii=False)
            text = f"id: {event['seq']}\r\nevent: {event['type']}\r\ndata: {data}\r\n\r\n".encode()
            if event["type"] == "done":
                self.server.finish(self.job)
            for start in range(0, len(text), 7):
                yield text[start : start + 7]
