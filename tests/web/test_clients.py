"""Both clients against the real application behind a real server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from arrowquant import AsyncClient, Client
from arrowquant.errors import Conflict, NotFound, Unauthorized
from service.wiring import Deps
from tests.client.awaited import Awaited
from tests.web.conftest import MiniWorker, job_body


class Lossy(httpx.HTTPTransport):
    """A network that loses the answers of the first POSTs."""

    lost = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        if request.method == "POST" and self.lost < 2:
            response.read()
            self.lost += 1
            raise httpx.ReadError("connection lost")
        return response


class AsyncLossy(httpx.AsyncHTTPTransport):
    """The same for clients that do not block."""

    lost = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if request.method == "POST" and self.lost < 2:
            await response.aread()
            self.lost += 1
            raise httpx.ReadError("connection lost")
        return response


@pytest.fixture(params=[Client, AsyncClient])
def client(request: pytest.FixtureRequest, live: str, key: str) -> Iterator[Any]:
    """Either client; two answers get lost on the way."""
    if request.param is Client:
        with Client(live, key, transport=Lossy(), sleep=lambda _: None) as client:
            yield client
    else:
        with Awaited(AsyncClient(live, key, transport=AsyncLossy(), sleep=_now)) as awaited:
            yield awaited


async def _now(_: float) -> None:
    """No pause between attempts."""


def test_a_job_from_plan_to_files(
    client: Any, worker: MiniWorker, deps: Deps, tmp_path: Path
) -> None:
    body = job_body(labels={"team": "x"})
    assert client.plan(body)["totals"]["parameters"] > 0
    job = client.submit(body)
    assert [found["id"] for found in client.list(label="team=x")] == [job["id"]]
    threading.Thread(target=worker.finish, args=(job["id"],)).start()
    seen: list[int] = []
    done = client.wait(job["id"], timeout=60, on_event=lambda event: seen.append(event["seq"]))
    assert done["state"] == "SUCCEEDED"
    assert seen == list(range(1, len(seen) + 1))
    assert len(list(client.tensors(job["id"]))) == 3
    folder = client.download(job["id"], tmp_path / "got")
    assert {row["name"] for row in client.artifacts(job["id"])} == {
        path.name for path in folder.iterdir()
    }
    assert client.report(job["id"])["summary"]["totals"]["parameters"] > 0
    with pytest.raises(Conflict) as refused:
        client.cancel(job["id"])
    assert refused.value.code == "job_terminal"


def test_lost_answers_make_one_job(client: Any, deps: Deps) -> None:
    client.submit(job_body())
    assert len(list(client.iter_jobs())) == 1
    client.submit(job_body())
    assert len(list(client.iter_jobs())) == 2


def test_pages_are_followed(client: Any) -> None:
    made = [client.submit(job_body())["id"] for _ in range(5)]
    first = client.list_jobs(page_size=2)
    assert first["next_page_token"]
    assert [job["id"] for job in client.iter_jobs()] == made[::-1]
    assert [job["id"] for job in client.iter_jobs(limit=3)] == made[:1:-1]


def test_errors_have_their_kind(client: Any, live: str) -> None:
    with pytest.raises(NotFound):
        client.get("job_0")
    with Client(live, "aq_wrong", retries=0) as other, pytest.raises(Unauthorized):
        other.get("job_0")


def test_a_watch_that_is_given_up_leaves_nothing_open(live: str, key: str) -> None:
    """The server's side of the stream ends too: it waits for the job no longer."""

    async def run() -> None:
        async with AsyncClient(live, key) as client:
            job = await client.submit(job_body())
            seen = asyncio.Event()

            async def watch() -> None:
                async for _ in client.watch(job["id"]):
                    seen.set()

            task = asyncio.create_task(watch())
            await asyncio.wait_for(seen.wait(), 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await client.cancel(job["id"]))["state"] == "CANCELLED"

    asyncio.run(run())
