"""Every changing request leaves a line."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from structlog.testing import capture_logs

from service.domain.access import Scope
from service.domain.errors import ArrowQuantError
from service.wiring import Deps
from tests.web.conftest import Submit, job_body

pytestmark = pytest.mark.anyio


async def lines(client: httpx.AsyncClient, query: str = "") -> list[dict[str, Any]]:
    response = await client.get(f"/v1/audit_events?{query}")
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["audit_events"]
    return found


async def test_changes_are_noted_with_who_what_and_how_it_ended(
    client: httpx.AsyncClient, deps: Deps, key: str
) -> None:
    made = await client.post(
        "/v1/jobs", json=job_body(name="hidden-7"), headers={"X-Request-ID": "mine-1"}
    )
    path = made.headers["location"]
    await client.post(f"{path}/cancel")
    await client.post(f"{path}/cancel/nowhere")
    await client.post("/v1/jobs", json={"name": 1})
    await client.get("/v1/jobs")
    await client.post("/v1/plans", json={"source": job_body()["source"]})
    found = await lines(client)
    assert [(line["action"], line["status"], line["code"]) for line in found] == [
        ("create_job", 422, "invalid_spec"),
        ("cancel_job", 200, None),
        ("create_job", 202, None),
    ]
    first = found[-1]
    assert first["resource"] == path
    assert first["subject"] == f"key:{key.split('_')[1]}"
    assert first["request_id"] == "mine-1"
    assert first["address"] == "127.0.0.1"
    now = datetime.now(UTC)
    assert now - timedelta(minutes=5) < datetime.fromisoformat(first["time"]) <= now
    assert "hidden-7" not in str(found)


async def test_what_was_refused_is_noted_too(client: httpx.AsyncClient, deps: Deps) -> None:
    reader = deps.keys.create("acme", "r", frozenset({Scope.JOBS_READ}))[1]
    as_reader = {"Authorization": f"Bearer {reader}"}
    await client.post("/v1/jobs", json=job_body(), headers=as_reader)
    (line,) = await lines(client)
    assert (line["action"], line["status"], line["code"]) == ("create_job", 403, "forbidden")
    assert line["subject"] == f"key:{reader.split('_')[1]}"


async def test_without_a_tenant_it_goes_to_the_log_of_the_service(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    with capture_logs() as logged:
        stranger = {"Authorization": "Bearer aq_000000000000_" + "A" * 43}
        refused = await client.post("/v1/jobs", json=job_body(), headers=stranger)
    assert refused.status_code == 401
    (line,) = [entry for entry in logged if entry["event"] == "change_refused"]
    assert (line["action"], line["status"], line["address"]) == ("create_job", 401, "127.0.0.1")
    assert "AAAA" not in str(logged)
    assert await lines(client) == []


async def test_a_flood_does_not_fill_the_log(client: httpx.AsyncClient, deps: Deps) -> None:
    deps.quotas.override("acme", {"requests_per_minute": 1})
    for status in (404, 429, 429):
        assert (await client.post("/v1/jobs/job_0/cancel")).status_code == status
    rich = {"Authorization": f"Bearer {deps.keys.create('acme', 'n')[1]}"}
    deps.quotas.override("acme", {})
    transport: Any = client._transport
    transport.app.state.context.limiter._limits.clear()
    found = (await client.get("/v1/audit_events", headers=rich)).json()["audit_events"]
    assert [line["status"] for line in found] == [404]


async def test_secrets_are_not_in_it(client: httpx.AsyncClient, key: str) -> None:
    body = {"name": "n", "scopes": ["jobs:read"]}
    made = (await client.post("/v1/api_keys", json=body)).json()
    rotated = (await client.post(f"/v1/api_keys/{made['id']}/rotate")).json()
    found = await lines(client)
    assert [line["action"] for line in found] == ["rotate_api_key", "create_api_key"]
    assert {line["resource"] for line in found} == {f"/v1/api_keys/{made['id']}"}
    for secret in (key, made["secret"], rotated["secret"]):
        assert secret.split("_", 2)[2] not in str(found)


async def test_an_error_that_nobody_foresaw_is_noted(
    client: httpx.AsyncClient, deps: Deps, monkeypatch: pytest.MonkeyPatch, submit: Submit
) -> None:
    job = await submit()

    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(type(deps.ledger), "cancel_job", fail)
    assert (await client.post(f"/v1/jobs/{job}/cancel")).status_code == 500
    assert (await lines(client))[0]["status"] == 500


async def test_a_line_that_cannot_be_written_is_in_the_log_of_the_service(
    client: httpx.AsyncClient, deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ArrowQuantError("database_unavailable", "the database is away")

    monkeypatch.setattr(type(deps.audit), "write", fail)
    with capture_logs() as logged:
        assert (await client.post("/v1/jobs", json=job_body())).status_code == 202
    (line,) = [entry for entry in logged if entry["event"] == "audit_not_written"]
    assert (line["tenant"], line["action"], line["status"]) == ("acme", "create_job", 202)


async def test_filters_and_pages(client: httpx.AsyncClient, submit: Submit) -> None:
    jobs = [await submit() for _ in range(3)]
    await client.post(f"/v1/jobs/{jobs[0]}/cancel")
    assert len(await lines(client, "action=create_job")) == 3
    path = quote(f"/v1/jobs/{jobs[1]}", safe="")
    (only,) = await lines(client, f"resource={path}")
    later = await lines(client, f"after={quote(only['time'])}")
    assert [line["action"] for line in later] == ["cancel_job", "create_job"]
    first = (await client.get("/v1/audit_events?page_size=3")).json()
    token = first["next_page_token"]
    rest = (await client.get(f"/v1/audit_events?page_size=3&page_token={token}")).json()
    assert rest["next_page_token"] is None
    ids = [line["id"] for line in first["audit_events"] + rest["audit_events"]]
    assert len(set(ids)) == 4
    assert ids == sorted(ids, reverse=True)
    other = await client.get(f"/v1/audit_events?action=create_job&page_token={token}")
    assert other.status_code == 400
