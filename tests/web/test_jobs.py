"""Creating, reading and steering jobs."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest

from service.domain.job import UnitKind
from service.wiring import Deps
from tests.web.conftest import CountingBell, MiniWorker, Submit, job_body

pytestmark = pytest.mark.anyio


async def test_a_job_is_accepted_and_rung_for(
    client: httpx.AsyncClient, bell: CountingBell
) -> None:
    body = job_body(name="tiny", labels={"team": "x"})
    response = await client.post("/v1/jobs", json=body)
    assert response.status_code == 202
    job = response.json()
    assert response.headers["location"] == f"/v1/jobs/{job['id']}" == job["links"]["self"]
    assert int(response.headers["retry-after"]) >= 1
    assert bell.rings == 1
    assert job["state"] == "QUEUED"
    assert job["phase"] is None
    assert job["priority"] == "normal"
    assert job["labels"] == {"team": "x"}
    assert job["request"] == body
    assert job["resolved"]["recipe"]["bits"] == 4
    assert job["progress"]["percent"] == 0
    assert (await client.get(job["links"]["self"])).json() == job


async def test_with_the_broker_down_jobs_are_accepted_at_once(
    client: httpx.AsyncClient, bell: CountingBell, deps: Deps
) -> None:
    bell.broken = True
    started = time.monotonic()
    response = await client.post("/v1/jobs", json=job_body())
    assert time.monotonic() - started < 3
    assert response.status_code == 202
    assert deps.ledger.has_work()


async def test_validate_only_checks_and_stores_nothing(
    client: httpx.AsyncClient, bell: CountingBell, deps: Deps
) -> None:
    good = await client.post("/v1/jobs?validate_only=true", json=job_body(priority="high"))
    assert good.status_code == 202
    assert good.json()["priority"] == "high"
    assert good.json()["resolved"]["recipe"]["group_size"] == 32
    recipe = {"rules": [{"match": "nothing"}]}
    bad = await client.post("/v1/jobs?validate_only=true", json=job_body(recipe=recipe))
    assert bad.json()["code"] == "rule_matched_nothing"
    assert bell.rings == 0
    assert not deps.ledger.has_work()
    assert (await client.get("/v1/jobs")).json() == {"jobs": [], "next_page_token": None}


@pytest.mark.parametrize(
    ("changes", "status", "code", "pointer"),
    [
        ({"source": {"connection": "nowhere"}}, 404, "connection_not_found", "/source/connection"),
        ({"output": {"connection": "nowhere"}}, 404, "connection_not_found", "/output/connection"),
        (
            {"source": {"connection": "models", "prefix": "none/"}},
            404,
            "source_not_found",
            "/source/prefix",
        ),
        (
            {"source": {"connection": "models", "prefix": "pickled/"}},
            422,
            "unsupported_format",
            "/source/prefix",
        ),
        (
            {"source": {"connection": "models", "prefix": "broken/"}},
            422,
            "invalid_safetensors_header",
            "/source/prefix",
        ),
        (
            {"recipe": {"rules": [{"match": "blocks.*"}, {"match": "attn"}]}},
            422,
            "rule_matched_nothing",
            "/recipe/rules/1/match",
        ),
        (
            {"recipe": {"rules": [{"match": "re:(?=x)"}]}},
            422,
            "invalid_spec",
            "/recipe/rules/0/match",
        ),
        (
            {"output": {"connection": "artifacts", "prefix": "a.safetensors"}},
            422,
            "invalid_spec",
            "/output/prefix",
        ),
        ({"name": "a\0b"}, 422, "invalid_spec", "/name"),
        (
            {"output": {"connection": "artifacts", "prefix": "taken/"}},
            409,
            "output_exists",
            "/output/prefix",
        ),
    ],
)
async def test_what_cannot_work_is_refused_before_it_is_queued(
    client: httpx.AsyncClient,
    deps: Deps,
    models: Any,
    tmp_path: Any,
    changes: dict[str, Any],
    status: int,
    code: str,
    pointer: str,
) -> None:
    (models / "pickled").mkdir()
    (models / "pickled" / "model.bin").write_bytes(b"\x80\x02")
    (models / "broken").mkdir()
    (models / "broken" / "model.safetensors").write_bytes(b"\x10" + b"\0" * 7 + b"not json at all!")
    (tmp_path / "artifacts" / "taken").mkdir()
    (tmp_path / "artifacts" / "taken" / "manifest.json").write_text("{}")
    response = await client.post("/v1/jobs", json=job_body(**changes))
    problem = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert [field["pointer"] for field in problem["errors"]] == [pointer]
    assert not deps.ledger.has_work()


async def test_an_artifact_may_be_replaced_when_asked(
    client: httpx.AsyncClient, tmp_path: Any
) -> None:
    (tmp_path / "artifacts" / "manifest.json").write_text("{}")
    output = {"connection": "artifacts", "prefix": "", "if_exists": "replace"}
    assert (await client.post("/v1/jobs", json=job_body(output=output))).status_code == 202


async def test_the_id_of_another_tenant_is_not_found(
    client: httpx.AsyncClient, deps: Deps, submit: Submit
) -> None:
    job = await submit()
    _, other = deps.keys.create("rival", "tests")
    client.headers["Authorization"] = f"Bearer {other}"
    assert (await client.get("/v1/jobs")).json()["jobs"] == []
    for method, path in [
        ("GET", ""),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("GET", "/events"),
        ("GET", "/tensors"),
        ("GET", "/report"),
        ("GET", "/artifacts"),
        ("GET", "/artifacts/manifest.json/download"),
    ]:
        response = await client.request(method, f"/v1/jobs/{job}{path}")
        assert (response.status_code, response.json()["code"]) == (404, "not_found"), path
    streamed = await client.get(f"/v1/jobs/{job}/events", headers={"Accept": "text/event-stream"})
    assert streamed.status_code == 404


@pytest.mark.parametrize("job_id", ["job_01kayq3zj6c8x4t1m2n5p7r9sv", "x", "job_%00", "..%2f", "é"])
async def test_what_is_no_job_is_not_found(client: httpx.AsyncClient, job_id: str) -> None:
    response = await client.get(f"/v1/jobs/{job_id}")
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_a_queued_job_is_cancelled_at_once_and_again_without_harm(
    client: httpx.AsyncClient, submit: Submit
) -> None:
    job = await submit()
    for _ in range(2):
        response = await client.post(f"/v1/jobs/{job}/cancel")
        assert (response.status_code, response.json()["state"]) == (200, "CANCELLED")


async def test_a_running_job_is_cancelled_by_its_workers(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker, bell: CountingBell
) -> None:
    job = await submit()
    worker.start(job)
    rings = bell.rings
    response = await client.post(f"/v1/jobs/{job}/cancel")
    assert (response.status_code, response.json()["state"]) == (202, "CANCELLING")
    assert bell.rings == rings + 1
    worker.ledger.cleanup_done(worker.claim(job, UnitKind.CLEANUP))
    assert (await client.get(f"/v1/jobs/{job}")).json()["state"] == "CANCELLED"


async def test_a_failed_job_says_why_and_can_be_retried(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit()
    active = await client.post(f"/v1/jobs/{job}/retry")
    assert (active.status_code, active.json()["code"]) == (409, "job_active")
    worker.fail(job)
    failed = (await client.get(f"/v1/jobs/{job}")).json()
    assert failed["state"] == "FAILED"
    assert failed["error"]["code"] == "non_finite_weights"
    assert failed["error"]["fault"] == "user"
    refused = await client.post(f"/v1/jobs/{job}/cancel")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_terminal")
    again = await client.post(f"/v1/jobs/{job}/retry")
    assert (again.status_code, again.json()["state"], again.json()["attempt"]) == (202, "QUEUED", 2)


async def test_only_a_published_job_is_at_100_percent(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit()
    worker.finish(job)
    body = (await client.get(f"/v1/jobs/{job}")).json()
    assert (body["state"], body["progress"]["percent"]) == ("SUCCEEDED", 100)
    assert body["summary"]["counts"]["tensors"] == 3
    refused = await client.post(f"/v1/jobs/{job}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_terminal")


async def test_an_etag_spares_the_body(client: httpx.AsyncClient, submit: Submit) -> None:
    job = await submit()
    etag = (await client.get(f"/v1/jobs/{job}")).headers["etag"]
    for sent in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        same = await client.get(f"/v1/jobs/{job}", headers={"If-None-Match": sent})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", etag)
    await client.post(f"/v1/jobs/{job}/cancel")
    changed = await client.get(f"/v1/jobs/{job}", headers={"If-None-Match": etag})
    assert changed.status_code == 200
    assert changed.headers["etag"] != etag


async def test_a_long_poll_returns_when_the_job_changes(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit()
    etag = (await client.get(f"/v1/jobs/{job}")).headers["etag"]
    waiting = [
        asyncio.create_task(client.get(f"/v1/jobs/{job}?wait=20")),
        asyncio.create_task(client.get(f"/v1/jobs/{job}?wait=20", headers={"If-None-Match": etag})),
    ]
    await asyncio.sleep(0.5)
    assert not any(task.done() for task in waiting)
    worker.start(job)
    for task in waiting:
        response = await asyncio.wait_for(task, 3)
        assert (response.status_code, response.json()["state"]) == (200, "RUNNING")


async def test_a_long_poll_ends_in_time(client: httpx.AsyncClient, submit: Submit) -> None:
    job = await submit()
    etag = (await client.get(f"/v1/jobs/{job}")).headers["etag"]
    started = time.monotonic()
    same = await client.get(f"/v1/jobs/{job}?wait=0.6", headers={"If-None-Match": etag})
    assert same.status_code == 304
    assert 0.5 < time.monotonic() - started < 5
    stale = await client.get(f"/v1/jobs/{job}?wait=20", headers={"If-None-Match": '"old"'})
    assert stale.status_code == 200
    await client.post(f"/v1/jobs/{job}/cancel")
    ended = await client.get(f"/v1/jobs/{job}?wait=20")
    assert ended.json()["state"] == "CANCELLED"
    assert time.monotonic() - started < 10
    assert (await client.get(f"/v1/jobs/{job}?wait=31")).status_code == 422


async def test_an_output_has_one_writer_at_a_time(client: httpx.AsyncClient) -> None:
    """Two jobs that write the same parts would spoil both artifacts."""
    body = job_body()
    first = (await client.post("/v1/jobs", json=body)).json()["id"]
    second = await client.post("/v1/jobs", json=body | {"recipe": {"bits": 8}})
    assert (second.status_code, second.json()["code"]) == (409, "output_in_use")
    await client.post(f"/v1/jobs/{first}/cancel")
    assert (await client.post("/v1/jobs", json=body)).status_code == 202
    again = await client.post(f"/v1/jobs/{first}/retry")
    assert (again.status_code, again.json()["code"]) == (409, "output_in_use")


async def test_a_basic_view_is_light(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit(name="n")
    worker.finish(job)
    heavy = {"request", "resolved", "warnings", "summary", "workers"}
    full = (await client.get(f"/v1/jobs/{job}")).json()
    basic = await client.get(f"/v1/jobs/{job}?view=basic")
    assert {name for name, value in basic.json().items() if value != full[name]} == heavy
    assert all(basic.json()[name] is None for name in heavy)
    [listed] = (await client.get("/v1/jobs?view=basic")).json()["jobs"]
    assert listed == basic.json()
    same = {"If-None-Match": basic.headers["ETag"]}
    assert (await client.get(f"/v1/jobs/{job}?view=basic", headers=same)).status_code == 304
    assert (await client.get(f"/v1/jobs/{job}", headers=same)).status_code == 200
    assert (await client.get(f"/v1/jobs/{job}?view=tiny")).status_code == 422


async def test_who_works_on_a_job_is_told_and_is_no_news(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit()
    assert (await client.get(f"/v1/jobs/{job}")).json()["workers"] == []
    claim = worker.start(job)
    found = await client.get(f"/v1/jobs/{job}")
    [holder] = found.json()["workers"]
    assert (holder["host"], holder["kind"], holder["seq"]) == ("test", "plan", 0)
    worker.ledger.heartbeat(claim, 0, 12345)
    same = {"If-None-Match": found.headers["ETag"]}
    assert (await client.get(f"/v1/jobs/{job}", headers=same)).status_code == 304
    [later] = (await client.get(f"/v1/jobs/{job}")).json()["workers"]
    assert later["rss_bytes"] == 12345
    assert later["heartbeat_time"] > holder["heartbeat_time"]
