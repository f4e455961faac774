"""`arrowquant.Client`: a server's jobs from Python."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

import httpx

from arrowquant.http.api import Api
from arrowquant.http.calls import Call, Play
from arrowquant.http.core import Core, Policy
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

DEFAULT_URL: Final = "http://127.0.0.1:8080"


def core_of(
    url: str | None, key: str | None, timeout: float, retries: int, policy: Policy | None
) -> Core:
    """What both clients are made of; the environment fills in what is not given."""
    return Core(
        url or os.environ.get("ARROWQUANT_URL") or DEFAULT_URL,
        key or os.environ.get("ARROWQUANT_API_KEY"),
        timeout,
        policy or Policy(retries),
    )


class Client(Api):
    """A connection to a server. Use it as a context manager, or call `close`.

    url      default: the variable ARROWQUANT_URL, else http://127.0.0.1:8080
    key      default: the variable ARROWQUANT_API_KEY
    timeout  seconds that the server may stay silent
    retries  how often a request is repeated when the server cannot be reached or is busy
    policy   more about that; instead of `retries`

    There is a method for every operation of the API (`create_job`, `list_webhook_endpoints`...),
    an `iter_...` for every list that comes in pages, and what takes more than one request:
    `wait`, `watch`, `download`. Answers are dicts, typed as the API documents them. Errors are
    `ApiError` and its kinds.
    """

    def __init__(
        self,
        url: str | None = None,
        key: str | None = None,
        *,
        timeout: float = 30.0,
        retries: int = 5,
        policy: Policy | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(core_of(url, key, timeout, retries, policy), transport, sleep)

    def plan(self, request: PlanBody | Mapping[str, Any]) -> Plan:
        """What a job with this source and recipe would do; reads headers only."""
        return self.create_plan(cast(PlanBody, request))

    def submit(
        self, job: JobRequest | Mapping[str, Any], *, idempotency_key: str | None = None
    ) -> Job:
        """Create a job. Sending again with the same key gives the same job, not a second one."""
        return self.create_job(cast(JobRequest, job), idempotency_key=idempotency_key)

    def get(self, job_id: str) -> Job:
        """A job as it is now."""
        return self.get_job(job_id)

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop."""
        return self.cancel_job(job_id)

    def retry(self, job_id: str) -> Job:
        """Continue a failed or cancelled job where it stopped."""
        return self.retry_job(job_id)

    def events(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """The events of a job so far, oldest first."""
        return self._each(Play(history(self._core, job_id, after)))

    def watch(self, job_id: str, after: int = 0) -> Iterator[Event]:
        """The events of a job as they happen, until it has ended."""
        return self._each(Play(follow(self._core, job_id, after)))

    def wait(
        self,
        job_id: str,
        timeout: float | None = None,
        on_event: Callable[[Event], object] | None = None,
    ) -> Job:
        """Wait for a job to end and return it. Raises JobFailed unless it succeeded."""
        return cast(Job, self._run(wait(self._core, job_id, timeout), on_event))

    def logs(
        self,
        job_id: str,
        after: int = 0,
        *,
        level: str | None = None,
        tensor: str | None = None,
        follow: bool = False,
    ) -> Iterator[LogLine]:
        """The log of a job, from `level` up; with `follow` until the job has ended."""
        script = lines(self._core, job_id, after, level, tensor, follow=follow)
        return self._each(Play(script))

    def tensors(self, job_id: str, state: TensorState | None = None) -> Iterator[Tensor]:
        """What became of every tensor."""
        return self.iter_tensors(job_id, state=state)

    def report(self, job_id: str) -> dict[str, Any]:
        """The quality report of a job that succeeded."""
        return self.get_report(job_id)

    def artifacts(self, job_id: str) -> Sequence[Artifact]:
        """The files of the artifact: name, bytes, sha256, download_url."""
        return self.list_artifacts(job_id)["artifacts"]

    def download(
        self,
        job_id: str,
        folder: str | Path,
        progress: Callable[[int], object] | None = None,
    ) -> Path:
        """Fetch the artifact of a job into a folder, checking every file's SHA-256.

        Files that are there and whole are kept, partial ones are continued. `manifest.json`
        comes last, so a folder that has it is complete.
        """
        for files in in_order(job_id, self.artifacts(job_id)):
            scripts = [fetch(self._core, f, Path(folder), progress or ignore) for f in files]
            self._run_all(scripts, PARALLEL)
        return Path(folder)

    def ready(self) -> Ready:
        """What the server says of its own readiness."""
        return self.readyz()

    def list(
        self,
        *,
        state: str | None = None,
        name: str | None = None,
        label: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Job]:
        """Jobs, newest first, at most `limit`. `label` is "key=value"."""
        return self._pages(listing(state, name, label), "jobs", limit)


def listing(state: str | None, name: str | None, label: str | None) -> Call[Any]:
    """The call that `list` makes."""
    # The API separates key and value by a colon; people write them as they set them.
    wanted = None if label is None else label.replace("=", ":", 1)
    return Call("GET", "/v1/jobs", {"state": state, "name": name, "label": wanted})


def ignore(size: int) -> None:
    """For who does not ask for progress."""
