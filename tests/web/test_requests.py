"""What holds for every request: keys, ids, bodies, problems, headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from service.domain.errors import CODES, ArrowQuantError
from service.settings import Settings
from service.web.app import create_app
from service.web.errors import TABLE
from service.wiring import Deps
from tests.web.conftest import Submit, job_body

pytestmark = pytest.mark.anyio

OPEN = ("/healthz", "/readyz", "/version", "/openapi.json")


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert (response.status_code, problem["code"]) == (status, code), problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["status"] == status
    assert problem["type"] == f"urn:arrowquant:error:{code}"
    assert problem["title"] == TABLE[code].title
    assert problem["fault"] == CODES[code].fault
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["detail"]
    return problem


async def test_every_path_but_a_few_wants_a_key(app: FastAPI, client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    checked = 0
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            real = path.replace("{job_id}", "job_0").replace("{name}", "manifest.json")
            response = await client.request(method, real, json={} if method == "post" else None)
            if path in OPEN:
                assert response.status_code == 200, path
                continue
            check_problem(response, 401, "unauthorized")
            assert response.headers["www-authenticate"] == 'Bearer realm="arrowquant"'
            checked += 1
    assert checked >= 12


@pytest.mark.parametrize(
    "header",
    [
        "Bearer aq_000000000000_" + "A" * 43,
        "Bearer nonsense",
        "Bearer " + "a" * 5000,
        "Bearer \x7f",
        "Basic YTpi",
        "Bearer",
        "",
    ],
)
async def test_wrong_keys_are_all_answered_alike(client: httpx.AsyncClient, header: str) -> None:
    response = await client.get("/v1/jobs", headers={"Authorization": header})
    problem = check_problem(response, 401, "unauthorized")
    assert "aq_0000" not in response.text
    assert problem["detail"] in ("the request has no API key", "the API key is not valid")


async def test_a_revoked_key_ends_at_once(client: httpx.AsyncClient, deps: Deps) -> None:
    assert (await client.get("/v1/jobs")).status_code == 200
    deps.keys.revoke(deps.keys.list("acme")[0].id)
    check_problem(await client.get("/v1/jobs"), 401, "unauthorized")


async def test_without_keys_there_is_one_tenant(settings: Settings, deps: Deps) -> None:
    import dataclasses

    open_settings = settings.model_copy(update={"auth": False})
    app = create_app(open_settings, lambda s: dataclasses.replace(deps, settings=s))
    async with app.router.lifespan_context(app), _client(app) as client:
        job = (await client.post("/v1/jobs", json=job_body())).json()["id"]
        assert deps.ledger.get_job(job).tenant == "default"


def _client(app: FastAPI) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        (
            {"source": {"connection": "models"}},
            [("/output", "Field required")],
        ),
        (
            job_body(recipe={"bits": 5, "rules": [{"match": ""}, {"match": "x", "bit": 4}]}),
            [
                ("/recipe/bits", "Input should be 2, 3, 4 or 8"),
                ("/recipe/rules/0/match", "String should have at least 1 character"),
                ("/recipe/rules/1/bit", "unknown field"),
            ],
        ),
        (
            job_body(source={"connection": "models", "prefix": "../x"}),
            [("/source/prefix", "'../x' has an empty, '.' or '..' segment")],
        ),
        (
            job_body(recipe={"granularity": "row", "group_size": 64}),
            [
                (
                    "/recipe",
                    "group_size only goes with granularity 'group', not 'row'; remove it",
                )
            ],
        ),
        (
            job_body(**{"a/b~c": 1}),
            [("/a~1b~0c", "unknown field")],
        ),
        ([], [("", "Input should be a valid dictionary or object to extract fields from")]),
    ],
)
async def test_wrong_fields_are_pointed_at(
    client: httpx.AsyncClient, body: Any, errors: list[tuple[str, str]]
) -> None:
    problem = check_problem(await client.post("/v1/jobs", json=body), 422, "invalid_spec")
    assert [(error["pointer"], error["detail"]) for error in problem["errors"]] == errors


@pytest.mark.parametrize(
    "body",
    [b"{", b"", b"\xff", b"nul", b"[" * 100_000, b'{"a":' * 50_000, b"1e999999", b'"\\ud800"'],
)
async def test_what_is_not_json_is_refused(client: httpx.AsyncClient, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    response = await client.post("/v1/jobs", content=body, headers=headers)
    check_problem(response, 422, "invalid_spec")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
        {},
    ],
)
async def test_only_plain_json_is_read(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.post("/v1/jobs", content=b"{}", headers=headers)
    check_problem(response, 415, "unsupported_media_type")


async def test_bodies_are_capped_with_and_without_a_length(client: httpx.AsyncClient) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield b" " * 2**16

    headers = {"Content-Type": "application/json"}
    announced = await client.post("/v1/jobs", content=b" " * (2**20 + 1), headers=headers)
    check_problem(announced, 413, "payload_too_large")
    chunked = await client.post("/v1/jobs", content=endless(), headers=headers)
    check_problem(chunked, 413, "payload_too_large")
    just = job_body(name="x")
    padded = json.dumps(just).encode().ljust(2**20)
    assert (await client.post("/v1/jobs", content=padded, headers=headers)).status_code == 202


def test_a_real_server_cuts_off_an_endless_body(live: str, key: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * 2**20:
            sent += 2**16
            yield b" " * 2**16

    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    try:
        response = httpx.post(f"{live}/v1/jobs", content=endless(), headers=headers)
    except httpx.TransportError:
        pass  # the connection was closed while we were still sending
    else:
        assert response.status_code == 413
    assert sent < 32 * 2**20


async def test_a_request_keeps_its_id(client: httpx.AsyncClient) -> None:
    given = await client.get("/version", headers={"X-Request-ID": "abc-1.2_3"})
    assert given.headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 129, 'a"'):
        made = (await client.get("/version", headers={"X-Request-ID": bad})).headers["x-request-id"]
        assert made.startswith("req_")


async def test_answers_carry_security_headers(client: httpx.AsyncClient) -> None:
    for path in ("/version", "/v1/jobs", "/nowhere"):
        headers = (await client.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    check_problem(await client.get("/nowhere"), 404, "not_found")
    check_problem(await client.get("/v1/jobs/"), 404, "not_found")
    response = await client.request("PUT", "/v1/jobs", json={})
    problem = response.json()
    assert (response.status_code, problem["code"]) == (405, "not_found")
    assert response.headers["allow"] == "GET, POST"


async def test_an_error_that_nobody_foresaw_tells_nothing(
    client: httpx.AsyncClient, deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(type(deps.ledger), "list_jobs", fail)
    response = await client.get("/v1/jobs")
    check_problem(response, 500, "internal")
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text


async def test_a_database_that_is_away_is_a_503(
    client: httpx.AsyncClient, deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ArrowQuantError("database_unavailable", "the database is away")

    monkeypatch.setattr(type(deps.keys), "find", fail)
    response = await client.get("/v1/jobs")
    check_problem(response, 503, "database_unavailable")
    assert int(response.headers["retry-after"]) >= 1


async def test_slow_storage_does_not_block_other_requests(
    client: httpx.AsyncClient, deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    from service.usecases import plan, submit

    hang = threading.Event()
    monkeypatch.setattr(plan, "inspect", lambda *_, **__: hang.wait(20))
    monkeypatch.setattr(submit._source, "_seconds", 0.5)
    monkeypatch.setattr(plan._reading, "_seconds", 0.5)
    planning = asyncio.create_task(
        client.post("/v1/plans", json={"source": {"connection": "models"}})
    )
    creating = asyncio.create_task(client.post("/v1/jobs", json=job_body()))
    assert (await asyncio.wait_for(client.get("/healthz"), 0.4)).status_code == 200
    assert (await asyncio.wait_for(client.get("/v1/jobs"), 0.4)).status_code == 200
    check_problem(await asyncio.wait_for(planning, 5), 503, "storage_unavailable")
    # Slow is not wrong: the worker makes the same checks again.
    assert (await asyncio.wait_for(creating, 5)).status_code == 202
    hang.set()


async def test_the_connections_are_named_without_their_places(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    response = await client.get("/v1/connections")
    assert response.json() == {
        "connections": [
            {"name": name, "kind": "folder", "managed_by": "operator", "prefixes": None}
            for name in ("artifacts", "models")
        ]
    }
    assert str(tmp_path) not in response.text


async def test_schemes_say_what_can_be_asked_for(client: httpx.AsyncClient) -> None:
    schemes = (await client.get("/v1/schemes")).json()
    assert schemes["bits"] == [2, 3, 4, 8]
    assert schemes["profiles"]["edge"]["size_limit_bytes"] == 35_000_000
    assert set(schemes["granularities"]) == {"group", "row", "tensor"}
    assert schemes["recipe_schema"]["title"] == "Recipe"


async def test_a_plan_says_what_a_job_would_do(client: httpx.AsyncClient, submit: Submit) -> None:
    body = {"source": {"connection": "models", "prefix": "tiny/"}, "recipe": {"profile": "cloud"}}
    response = await client.post("/v1/plans", json=body)
    assert response.status_code == 200
    plan = response.json()
    assert plan["totals"]["source_bytes"] == 4 * 64 * 64 + 4 * 64 + 2 * 128 * 64
    assert plan["totals"]["units"] == 1
    assert [tensor["action"] for tensor in plan["tensors"]] == ["quantize", "keep", "quantize"]
    assert all(tensor["reason"] for tensor in plan["tensors"])
    whole = await client.post("/v1/plans", json=job_body(recipe={"profile": "cloud"}, name="n"))
    assert whole.json() == plan
    missing = await client.post("/v1/plans", json={"source": {"connection": "nowhere"}})
    check_problem(missing, 404, "connection_not_found")


async def test_a_plan_warns_of_a_profiles_size_limit(
    client: httpx.AsyncClient, models: Path
) -> None:
    size = 36_000_000
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    (models / "large").mkdir()
    with (models / "large" / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    body = {"source": {"connection": "models", "prefix": "large/"}, "recipe": {"profile": "edge"}}
    plan = (await client.post("/v1/plans", json=body)).json()
    assert [warning["code"] for warning in plan["warnings"]] == ["size_limit"]
