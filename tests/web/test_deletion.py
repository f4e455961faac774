"""DELETE of jobs, and for how long they are kept."""

from __future__ import annotations

from datetime import datetime, timedelta

import httpx
import pytest

from service.domain.job import UnitKind
from service.wiring import Deps
from tests.web.conftest import CountingBell, MiniWorker, Submit, job_body

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("query", ["", "?artifacts=keep", "?artifacts=delete"])
async def test_a_deleted_job_is_not_found_anywhere(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker, query: str
) -> None:
    job = await submit()
    worker.finish(job)
    gone = await client.delete(f"/v1/jobs/{job}{query}")
    assert (gone.status_code, gone.content) == (204, b"")
    for method, path in [
        ("GET", ""),
        ("GET", "?wait=1"),
        ("GET", "/events"),
        ("GET", "/tensors"),
        ("GET", "/report"),
        ("GET", "/artifacts"),
        ("GET", "/artifacts/manifest.json/download"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ]:
        response = await client.request(method, f"/v1/jobs/{job}{path}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), path
    stream = await client.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
    assert stream.status_code == 404
    assert (await client.get("/v1/jobs")).json()["jobs"] == []


async def test_workers_are_told_what_to_remove(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker, bell: CountingBell
) -> None:
    job = await submit()
    worker.finish(job)
    before = bell.rings
    assert (await client.delete(f"/v1/jobs/{job}?artifacts=delete")).status_code == 204
    assert bell.rings == before + 1
    worker.claim(job, UnitKind.CLEANUP)


async def test_a_job_that_has_not_ended_is_not_deleted(
    client: httpx.AsyncClient, submit: Submit
) -> None:
    job = await submit()
    response = await client.delete(f"/v1/jobs/{job}")
    assert (response.status_code, response.json()["code"]) == (409, "job_active")
    assert (await client.get(f"/v1/jobs/{job}")).status_code == 200


async def test_another_tenant_cannot(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker, deps: Deps
) -> None:
    job = await submit()
    worker.finish(job)
    other = {"Authorization": f"Bearer {deps.keys.create('other', 'x')[1]}"}
    assert (await client.delete(f"/v1/jobs/{job}", headers=other)).status_code == 404
    assert (await client.get(f"/v1/jobs/{job}")).status_code == 200


async def test_a_deletion_may_be_sent_again_under_its_key(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit()
    worker.finish(job)
    key = {"Idempotency-Key": "k-1"}
    first = await client.delete(f"/v1/jobs/{job}", headers=key)
    again = await client.delete(f"/v1/jobs/{job}", headers=key)
    assert (first.status_code, again.status_code) == (204, 204)
    assert again.headers["Idempotency-Replayed"] == "true"
    other = await client.delete(f"/v1/jobs/{job}?artifacts=delete", headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")


async def test_what_else_artifacts_could_be_is_refused(
    client: httpx.AsyncClient, submit: Submit
) -> None:
    response = await client.delete(f"/v1/jobs/{await submit()}?artifacts=burn")
    assert response.status_code == 422
    assert response.json()["errors"][0]["parameter"] == "artifacts"


async def test_retention_says_when_a_job_goes(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit(retention={"days": 3, "artifacts": "delete"})
    assert (await client.get(f"/v1/jobs/{job}")).json()["expire_time"] is None
    worker.finish(job)
    found = (await client.get(f"/v1/jobs/{job}")).json()
    ended, expires = (datetime.fromisoformat(found[n]) for n in ("end_time", "expire_time"))
    assert expires - ended == timedelta(days=3)


@pytest.mark.parametrize(
    ("retention", "pointer"),
    [
        ({"days": 0}, "/retention/days"),
        ({"days": 10**6}, "/retention/days"),
        ({"artifacts": "delete"}, "/retention/days"),
        ({"days": 1, "artifacts": "burn"}, "/retention/artifacts"),
    ],
)
async def test_retention_that_makes_no_sense(
    client: httpx.AsyncClient, retention: dict[str, object], pointer: str
) -> None:
    response = await client.post("/v1/jobs", json=job_body(retention=retention))
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == pointer


async def test_when_it_was_queued_and_how_often_units_are_tried(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker, deps: Deps
) -> None:
    job = await submit(limits={"max_pending_s": 60})
    found = (await client.get(f"/v1/jobs/{job}")).json()
    assert found["queue_time"] == found["create_time"]
    assert found["max_attempts"] == deps.settings.max_attempts
    worker.fail(job)
    again = (await client.post(f"/v1/jobs/{job}/retry")).json()
    assert again["queue_time"] > found["queue_time"]
    assert again["create_time"] == found["create_time"]
