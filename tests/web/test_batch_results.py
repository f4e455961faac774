"""Batches that are there: results and errors, cancel, retry, lists."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from service.wiring import Deps
from tests.web.batches import created, ids, rows
from tests.web.conftest import WORKER, MiniWorker

pytestmark = pytest.mark.anyio


async def test_results_and_errors(
    client: httpx.AsyncClient, worker: MiniWorker, deps: Deps
) -> None:
    batch = await created(client, 4)
    first, second, third, _ = await ids(client, batch)
    worker.finish(first)
    worker.fail(second)
    assert (await client.post(f"/v1/jobs/{third}/cancel")).status_code == 200
    now = (await client.get(batch["links"]["self"])).json()
    assert {k: v for k, v in now["counts"].items() if v} == {
        "total": 4, "queued": 1, "succeeded": 1, "failed": 1, "cancelled": 1,
    }  # fmt: skip
    [result] = await rows(client, batch["links"]["results"])
    assert (result["custom_id"], result["id"], result["line"]) == ("c1", first, 1)
    assert result["error"] is None
    assert result["response"]["status_code"] == 200
    assert result["response"]["body"] == (await client.get(f"/v1/jobs/{first}")).json()
    failed, cancelled = await rows(client, batch["links"]["errors"])
    assert (failed["custom_id"], failed["error"]["code"]) == ("c2", "non_finite_weights")
    assert (cancelled["custom_id"], cancelled["error"]["code"]) == ("c3", "job_cancelled")
    assert failed["response"] is None

    answer = await client.post(f"{batch['links']['self']}/retry")
    assert answer.status_code == 202
    assert {k: v for k, v in answer.json()["counts"].items() if v} == {
        "total": 4, "queued": 3, "succeeded": 1,
    }  # fmt: skip
    assert await rows(client, batch["links"]["errors"]) == []
    assert deps.ledger.get_job(second).attempt == 2


async def test_a_deleted_job_still_has_its_line(
    client: httpx.AsyncClient, worker: MiniWorker
) -> None:
    batch = await created(client, 1)
    [job] = await ids(client, batch)
    worker.finish(job)
    assert (await client.delete(f"/v1/jobs/{job}")).status_code == 204
    [result] = await rows(client, batch["links"]["results"])
    body = result["response"]["body"]
    assert (body["id"], body["state"], body["deleted"]) == (job, "SUCCEEDED", True)
    assert body["summary"]["totals"]
    now = (await client.get(batch["links"]["self"])).json()
    assert now["counts"]["succeeded"] == 1


async def test_cancel(client: httpx.AsyncClient, worker: MiniWorker, deps: Deps) -> None:
    batch = await created(client, 5)
    running = worker.start((await ids(client, batch))[0])
    path = f"{batch['links']['self']}/cancel"
    answer = await client.post(path)
    assert (answer.status_code, answer.json()["state"]) == (202, "CANCELLING")
    assert answer.json()["counts"]["cancelled"] == 4
    assert (await client.post(path)).status_code == 202
    cleanup = deps.ledger.claim(WORKER, running.job_id)
    assert cleanup is not None
    deps.ledger.cleanup_done(cleanup)
    deps.batches.sweep()
    answer = await client.post(path)
    assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")


async def test_cancelling_what_nobody_took_is_over_at_once(client: httpx.AsyncClient) -> None:
    batch = await created(client, 5)
    answer = await client.post(f"{batch['links']['self']}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (200, "CANCELLED")
    deleted = await client.delete(batch["links"]["self"])
    assert deleted.status_code == 204
    assert (await client.get(batch["links"]["self"])).status_code == 404


async def test_an_active_batch_is_not_forgotten(client: httpx.AsyncClient) -> None:
    batch = await created(client, 1)
    answer = await client.delete(batch["links"]["self"])
    assert (answer.status_code, answer.json()["code"]) == (409, "batch_active")


async def test_an_ended_batch_is_not_cancelled(
    client: httpx.AsyncClient, worker: MiniWorker, deps: Deps
) -> None:
    batch = await created(client, 1)
    worker.finish((await ids(client, batch))[0])
    deps.batches.sweep()
    answer = await client.post(f"{batch['links']['self']}/cancel")
    assert (answer.status_code, answer.json()["code"]) == (409, "batch_terminal")


async def test_waiting_for_a_change(client: httpx.AsyncClient, deps: Deps) -> None:
    batch = await created(client, 2)
    path = batch["links"]["self"]
    tag = (await client.get(path)).headers["etag"]
    same = await client.get(path, headers={"If-None-Match": tag})
    assert (same.status_code, same.headers["etag"]) == (304, tag)
    waiting = asyncio.create_task(
        client.get(path, params={"wait": 20}, headers={"If-None-Match": tag})
    )
    await asyncio.sleep(0.05)
    deps.ledger.claim(WORKER)
    changed = await waiting
    assert (changed.status_code, changed.json()["counts"]["running"]) == (200, 1)


async def test_lists_page_and_filter(client: httpx.AsyncClient) -> None:
    made = [(await created(client, 1))["id"] for _ in range(3)]
    await client.post(f"/v1/batches/{made[0]}/cancel")
    page = (await client.get("/v1/batches", params={"page_size": 2})).json()
    assert [one["id"] for one in page["batches"]] == made[:0:-1]
    token = {"page_size": 2, "page_token": page["next_page_token"]}
    rest = (await client.get("/v1/batches", params=token)).json()
    assert ([one["id"] for one in rest["batches"]], rest["next_page_token"]) == ([made[0]], None)
    found = (await client.get("/v1/batches", params={"state": "CANCELLED"})).json()["batches"]
    assert [one["id"] for one in found] == [made[0]]
    other = await client.get("/v1/batches", params=token | {"state": "CANCELLED"})
    assert other.json()["code"] == "invalid_page_token"


async def test_what_is_no_id_is_not_found(client: httpx.AsyncClient) -> None:
    for name in ("batch_none", "job_01", "batch_%00"):
        assert (await client.get(f"/v1/batches/{name}")).status_code == 404
