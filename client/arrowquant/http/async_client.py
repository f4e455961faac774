"""`arrowquant.AsyncClient`: the same for programs with an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import httpx

from arrowquant.http.async_api import AsyncApi
from arrowquant.http.calls import Play
from arrowquant.http.client import core_of, ignore, listing
from arrowquant.http.core import Policy
from arrowquant.http.download import PARALLEL, fetch, in_order
from arrowquant.http.follow import follow, history, wait
from arrowquant.http.logs import lines
from arrowquant.http.types import (
    Artifact,
    Event,
    Job,
    JobRequest,
    LogLine,
    Plan,
    PlanBody,
    Ready,
    Tensor,
    TensorState,
)


class AsyncClient(AsyncApi):
    """`Client` with coroutines: the same methods and arguments, to be awaited.

    Lists, `events` and `watch` are asynchronous iterators. Cancelling a task closes what it had
    open. Use it as an asynchronous context manager, or await `aclose`.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 5,
        policy: Policy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(core_of(url, key, timeout, retries, policy), transport, sleep)

    async def plan(self, request: PlanBody | Mapping[str, Any]) -> Plan:
        """What a job with this source and recipe would do; reads headers only."""
        return await self.create_plan(cast(PlanBody, request))

    async def submit(
        self, job: JobRequest | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Job:
        """Create a job. Sending again with the same key gives the same job, not a second one."""
        return await self.create_job(cast(JobRequest, job), idempotency_key=idempotency_key)

    async def get(self, job_id: str) -> Job:
        """A job as it is now."""
        return await self.get_job(job_id)

    async def cancel(self, job_id: str) -> Job:
        """Ask a job to stop."""
        return await self.cancel_job(job_id)

    async def retry(self, job_id: str) -> Job:
        """Continue a failed or cancelled job where it stopped."""
        return await self.retry_job(job_id)

    def events(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """The events of a job so far, oldest first."""
        return self._each(Play(history(self._core, job_id, after)))

    def watch(self, job_id: str, after: int = 0) -> AsyncIterator[Event]:
        """The events of a job as they happen, until it has ended."""
        return self._each(Play(follow(self._core, job_id, after)))

    async def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Job:
        """Wait for a job to end and return it. Raises JobFailed unless it succeeded."""
        return cast(Job, await self._run(wait(self._core, job_id, timeout), on_event))

    def logs(
        self,
        job_id: str,
        after: int = 0,
        *,
        level: str | None = None,
        tensor: str | None = None,
        follow: bool = False,
    ) -> AsyncIterator[LogLine]:
        """The log of a job, from `level` up; with `follow` until the job has ended."""
        script = lines(self._core, job_id, after, level, tensor, follow=follow)
        return self._each(Play(script))

    def tensors(self, job_id: str, state: TensorState | None = None) -> AsyncIterator[Tensor]:
        """What became of every tensor."""
        return self.iter_tensors(job_id, state=state)

    async def report(self, job_id: str) -> dict[str, Any]:
        """The quality report of a job that succeeded."""
        return await self.get_report(job_id)

    async def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The files of the artifact: name, bytes, sha256, download_url."""
        return (await self.list_artifacts(job_id))["artifacts"]

    async def download(
        self,
        job_id: str,
        folder: str | Path,
        progress: Callable[[int], object] | None = None,
    ) -> Path:
        """Fetch the artifact of a job into a folder, checking every file's SHA-256.

        Files that are there and whole are kept, partial ones are continued. `manifest.json`
        comes last, so a folder that has it is complete.
        """
        for files in in_order(job_id, await self.artifacts(job_id)):
            scripts = [fetch(self._core, f, Path(folder), progress or ignore) for f in files]
            await self._run_all(scripts, PARALLEL)
        return Path(folder)

    async def ready(self) -> Ready:
        """What the server says of its own readiness."""
        return await self.readyz()

    def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Job]:
        """Jobs, newest first, at most `limit`. `label` is "key=value"."""
        return self._pages(listing(state, name, label), "jobs", limit)
