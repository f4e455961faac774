"""`arrowquant.Client`: a server's jobs from Python."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from arrowquant.errors import ApiError, ArrowQuantError, JobFailed
from arrowquant.http.download import Download, fetch_all
from arrowquant.http.follow import TERMINAL, follow
from arrowquant.http.transport import Params, Transport

DEFAULT_URL = "http://127.0.0.1:8080"

Job = dict[str, Any]


class Client:
    """A connection to a server. Use it as a context manager, or call `close`.

    url      default: the variable ARROWQUANT_URL, else http://127.0.0.1:8080
    key      default: the variable ARROWQUANT_API_KEY
    retries  how often a request is repeated when the server cannot be reached or is busy

    Jobs, plans and events are plain dicts as the API documents them. Errors are `ApiError`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = Transport(
            url or os.environ.get("ARROWQUANT_URL") or DEFAULT_URL,
            key or os.environ.get("ARROWQUANT_API_KEY"),
            timeout=timeout,
            retries=retries,
            transport=transport,
            sleep=sleep,
        )

    @property
    def url(self) -> str:
        return self._transport.url

    def close(self) -> None:
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def plan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """What a job with this source and recipe would do; reads headers only."""
        return self._post("/v1/plans", dict(request))

    def submit(self, job: Mapping[str, Any], *, idempotency_key: str | None = None) -> Job:
        """Create a job. Sending again with the same key gives the same job, not a second one."""
        return self._post("/v1/jobs", dict(job), idempotency_key)

    def get(self, job_id: str) -> Job:
        """A job as it is now."""
        return self._get(_job(job_id))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop."""
        return self._post(_job(job_id, "cancel"))

    def retry(self, job_id: str) -> Job:
        """Continue a failed or cancelled job where it stopped."""
        return self._post(_job(job_id, "retry"))

    def events(self, job_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """The events of a job so far, oldest first."""
        while True:
            page = self._get(_job(job_id, "events"), {"after": after})
            events = _rows(page, "events")
            yield from events
            last = max((int(e.get("seq", 0)) for e in events), default=0)
            if last <= after:
                return
            after = last

    def watch(self, job_id: str, after: int = 0) -> Iterator[dict[str, Any]]:
        """The events of a job as they happen, until it has ended."""
        for event in follow(self, self._transport, _job(job_id, "events"), job_id, after):
            if event is not None:
                yield event

    def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> Job:
        """Wait for a job to end and return it. Raises JobFailed unless it succeeded."""
        deadline = None if timeout is None else time.monotonic() + timeout
        job = self.get(job_id)
        if job.get("state") not in TERMINAL:
            path = _job(job_id, "events")
            for event in follow(self, self._transport, path, job_id, 0, deadline):
                if deadline is not None and time.monotonic() > deadline:
                    raise ArrowQuantError(
                        "wait_timeout",
                        f"the job has not ended within {timeout:g} s",
                        "It goes on; wait again, or cancel it.",
                        {"job": job_id},
                    )
                if event is not None and on_event is not None:
                    on_event(event)
            job = self.get(job_id)
        if job.get("state") != "SUCCEEDED":
            raise JobFailed(job)
        return job

    def tensors(self, job_id: str, state: str | None = None) -> Iterator[dict[str, Any]]:
        """What became of every tensor."""
        return self._pages(_job(job_id, "tensors"), "tensors", {"state": state})

    def report(self, job_id: str) -> dict[str, Any]:
        """The quality report of a job that succeeded."""
        return self._get(_job(job_id, "report"))

    def artifacts(self, job_id: str) -> Sequence[dict[str, Any]]:
        """The files of the artifact: name, bytes, sha256, download_url."""
        return _rows(self._get(_job(job_id, "artifacts")), "artifacts")

    def download(
        self,
        job_id: str,
        folder: str | Path,
        progress: Callable[[int], None] | None = None,
    ) -> Path:
        """Fetch the artifact of a job into a folder, checking every file's SHA-256.

        Files that are there and whole are kept, partial ones are continued. `manifest.json`
        comes last, so a folder that has it is complete.
        """
        downloads = []
        for row in self.artifacts(job_id):
            name = str(row.get("name"))
            path = _job(job_id, f"artifacts/{quote(name, safe='')}/download")
            downloads.append(Download.of(row, path))
        fetch_all(self._transport, downloads, Path(folder), progress or (lambda _: None))
        return Path(folder)

    def ready(self) -> dict[str, Any]:
        """What the server says of its own readiness."""
        return self._get("/readyz")

    def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first. `label` is "key=value"."""
        # The API separates key and value by a colon; people write them as they set them.
        wanted = None if label is None else label.replace("=", ":", 1)
        params: Params = {"state": state, "name": name, "label": wanted}
        for number, job in enumerate(self._pages("/v1/jobs", "jobs", params, limit)):
            if limit is not None and number >= limit:
                return
            yield job

    def _get(self, path: str, params: Params | None = None) -> dict[str, Any]:
        return _object(self._transport.json("GET", path, params=params))

    def _post(self, path: str, body: Any = None, key: str | None = None) -> dict[str, Any]:
        headers = {"Idempotency-Key": key or str(uuid.uuid4())}
        return _object(self._transport.json("POST", path, body=body, headers=headers))

    def _pages(
        self, path: str, key: str, params: Params, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        token: str | None = None
        size = None if limit is None else min(max(limit, 1), 1000)
        while True:
            page = self._get(path, {**params, "page_size": size, "page_token": token})
            yield from _rows(page, key)
            token = page.get("next_page_token") or None
            if token is None:
                return


def _job(job_id: str, below: str = "") -> str:
    if not job_id or job_id in (".", ".."):
        raise ApiError("not_found", "a job id is missing", "`arrowquant list` shows them.")
    return f"/v1/jobs/{quote(job_id, safe='')}" + (f"/{below}" if below else "")


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ApiError("invalid_response", "the answer is not a JSON object")
    return value


def _rows(page: Mapping[str, Any], key: str) -> Sequence[dict[str, Any]]:
    value = page.get(key)
    return [row for row in value if isinstance(row, dict)] if isinstance(value, Sequence) else []
