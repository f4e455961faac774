"""Several outputs over HTTP: asked for, planned, listed and refused."""

from __future__ import annotations

import httpx
import pytest

from service.domain.schemes import schemes
from tests.web.conftest import job_body

pytestmark = pytest.mark.anyio

RECIPE = {"outputs": [{"bits": 8}, {"id": "tiny", "bits": 2}]}


async def test_a_plan_tells_each_output(client: httpx.AsyncClient) -> None:
    plan = (await client.post("/v1/plans", json=job_body(recipe=RECIPE))).json()
    assert [output["id"] for output in plan["outputs"]] == ["int8", "tiny"]
    assert plan["recipe"] is None
    sizes = [output["totals"]["artifact_bytes"] for output in plan["outputs"]]
    assert plan["totals"]["artifact_bytes"] == sum(sizes)
    assert {tensor["output"] for tensor in plan["tensors"]} == {"int8", "tiny"}
    single = (await client.post("/v1/plans", json=job_body())).json()
    assert single["outputs"] == []


async def test_a_job_keeps_both_recipes(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/jobs", json=job_body(recipe=RECIPE))
    assert response.status_code == 202, response.text
    job = response.json()
    assert [o["id"] for o in job["resolved"]["outputs"]] == ["int8", "tiny"]
    assert [o["recipe"]["bits"] for o in job["resolved"]["outputs"]] == [8, 2]
    path = f"/v1/jobs/{job['id']}/tensors"
    unknown = await client.get(f"{path}?output=int4")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert (await client.get(f"{path}?output=tiny")).json()["tensors"] == []
    place = job["request"]["output"]
    same = job_body(output=place | {"prefix": place["prefix"] + "tiny/"})
    refused = await client.post("/v1/jobs", json=same)
    assert (refused.status_code, refused.json()["code"]) == (409, "output_in_use")


async def test_outputs_of_one_id_are_refused(client: httpx.AsyncClient) -> None:
    recipe = {"outputs": [{"bits": 4}, {}]}
    response = await client.post("/v1/jobs", json=job_body(recipe=recipe))
    assert (response.status_code, response.json()["code"]) == (422, "invalid_spec")
    assert "give each its id" in response.text


async def test_schemes_are_the_domain_s(client: httpx.AsyncClient) -> None:
    told = (await client.get("/v1/schemes")).json()
    assert len(told["schemes"]) == len(schemes())
    assert told["schemes"][0]["bits"] == [2, 3, 4, 8]
    assert told["limits"]["max_outputs"] == 8
    assert set(told["kept_roles"]) < set(told["roles"])
