"""A budget and a modality over HTTP: estimated, refused, and shown while a job is at it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from service.domain.job import UnitKind
from tests.web.conftest import MiniWorker, job_body

pytestmark = pytest.mark.anyio


async def _plan(client: httpx.AsyncClient, **recipe: Any) -> dict[str, Any]:
    response = await client.post("/v1/plans", json=job_body(recipe=recipe))
    assert response.status_code == 200, response.text
    plan: dict[str, Any] = response.json()
    return plan


async def test_a_plan_estimates_what_a_budget_will_come_to(client: httpx.AsyncClient) -> None:
    most = 8 * (await _plan(client, bits=8))["totals"]["artifact_bytes"]
    plan = await _plan(client, budget={"bytes": most})
    assert plan["budget"]["bytes"] == most
    assert plan["budget"]["estimate"] is True
    assert plan["totals"]["artifact_bytes"] <= most
    assert {"bits": 2, "method": "lsq"} in plan["budget"]["candidates"]
    assert (await _plan(client))["budget"] is None


async def test_a_budget_that_no_artifact_meets_is_refused_at_once(
    client: httpx.AsyncClient,
) -> None:
    for path in ("/v1/plans", "/v1/jobs"):
        refused = await client.post(path, json=job_body(recipe={"budget": {"bytes": 100}}))
        problem = refused.json()
        assert (refused.status_code, problem["code"]) == (422, "budget_infeasible"), problem
        assert problem["where"]["least_bytes"] > 100


async def test_what_is_no_budget(client: httpx.AsyncClient) -> None:
    for budget in (
        {},
        {"bytes": 1, "bits_per_weight": 1},
        "3.0",
        -1,
        {"bits_per_weight": 1, "x": 1},
    ):
        refused = await client.post("/v1/jobs", json=job_body(recipe={"budget": budget}))
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["pointer"].startswith("/recipe/budget")


async def test_the_modality_is_in_the_plan_and_can_be_said(client: httpx.AsyncClient) -> None:
    found = (await _plan(client))["modality"]
    assert found["evidence"]
    plan = await _plan(client, modality="image")
    assert (plan["modality"]["modality"], plan["modality"]["part"]) == ("image", "denoiser")
    assert plan["recipe"]["unbias"] == 1.0
    refused = await client.post("/v1/plans", json=job_body(recipe={"modality": "smell"}))
    assert refused.status_code == 422


async def test_the_phases_are_shown(client: httpx.AsyncClient, worker: MiniWorker) -> None:
    job = (await client.post("/v1/jobs", json=job_body(recipe={"budget": 30.0}))).json()
    assert job["resolved"]["recipe"]["budget"]["bits_per_weight"] == 30.0
    worker.plan(job["id"])
    claim = worker.claim(job["id"], UnitKind.ANALYZE)
    shown = (await client.get(f"/v1/jobs/{job['id']}")).json()
    assert shown["phase"] == "ANALYZING"
    assert shown["workers"][0]["kind"] == "analyze"
    worker.ledger.analysis_done(claim, [])
    worker.claim(job["id"], UnitKind.ALLOCATE)
    shown = (await client.get(f"/v1/jobs/{job['id']}")).json()
    assert (shown["phase"], shown["progress"]["percent"]) == ("ALLOCATING", 50.0)
    events = (await client.get(f"/v1/jobs/{job['id']}/events?after=0")).json()["events"]
    phases = [e["data"]["phase"] for e in events if e["type"] == "state"]
    assert phases[-3:] == ["PLANNING", "ANALYZING", "ALLOCATING"]
