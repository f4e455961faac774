"""Recipes by name over HTTP: kept, pinned on submission, refused where they cannot be meant."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.web.conftest import job_body

pytestmark = pytest.mark.anyio


async def _keep(client: httpx.AsyncClient, name: str, **recipe: Any) -> dict[str, Any]:
    response = await client.post("/v1/recipes", json={"name": name, "recipe": recipe})
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    assert (await client.get(response.headers["Location"])).json() == made
    return made


async def test_a_name_is_pinned_when_the_job_is_made(client: httpx.AsyncClient) -> None:
    first = await _keep(client, "ours", bits=2, group_size=32)
    response = await client.post("/v1/jobs", json=job_body(recipe={"ref": "ours", "bits": 8}))
    assert response.status_code == 202, response.text
    job = response.json()
    second = await _keep(client, "ours", bits=4)
    assert (first["ref"], second["ref"]) == ("ours@1", "ours@2")
    assert (await client.get("/v1/recipes/ours")).json() == second
    assert job["resolved"]["ref"] == {"name": "ours@1", "sha256": first["sha256"]}
    assert (job["resolved"]["recipe"]["bits"], job["resolved"]["recipe"]["group_size"]) == (8, 32)
    # What the job shows can be sent again and means the same.
    again = await client.post("/v1/jobs", json=job_body(recipe=job["request"]["recipe"]))
    assert again.json()["resolved"] == job["resolved"]


async def test_plans_and_outputs_take_names(client: httpx.AsyncClient) -> None:
    body = job_body(recipe={"ref": "three-widths@1", "group_size": 64})
    plan = (await client.post("/v1/plans", json=body)).json()
    assert [output["id"] for output in plan["outputs"]] == ["int8", "int4", "int2"]
    assert {output["recipe"]["group_size"] for output in plan["outputs"]} == {64}
    made = await _keep(client, "mine", ref="diffusion-default", rules=[{"match": "*", "bits": 8}])
    assert made["recipe"]["unbias"] == 1.0
    assert made["recipe"]["ref"] == "diffusion-default@2"


@pytest.mark.parametrize(
    ("recipe", "pointer"),
    [
        ({"ref": "nobody"}, "/recipe/ref"),
        ({"ref": "edge@9"}, "/recipe/ref"),
        ({"ref": "Edge@1"}, "/recipe/ref"),
        ({"ref": "edge@1", "ref_sha256": "0" * 64}, "/recipe/ref_sha256"),
        ({"ref": "diffusion-default", "method": "minmax"}, "/recipe"),
    ],
)
async def test_what_a_name_cannot_mean_is_refused(
    client: httpx.AsyncClient, recipe: dict[str, Any], pointer: str
) -> None:
    for path in ("/v1/jobs", "/v1/plans"):
        response = await client.post(path, json=job_body(recipe=recipe))
        problem = response.json()
        assert (response.status_code, problem["code"]) == (422, "invalid_spec")
        assert problem["errors"][0]["pointer"] == pointer


async def test_names_of_the_service_are_taken(client: httpx.AsyncClient) -> None:
    response = await client.post("/v1/recipes", json={"name": "edge", "recipe": {"bits": 4}})
    assert (response.status_code, response.json()["code"]) == (409, "name_in_use")
    for path in ("edge/versions/2", "nobody", "nobody/versions/1"):
        assert (await client.get(f"/v1/recipes/{path}")).status_code == 404
    listed = (await client.get("/v1/recipes")).json()
    assert "diffusion-default@1" in [recipe["ref"] for recipe in listed["recipes"]]
