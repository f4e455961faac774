"""POSTs that are sent again."""

from __future__ import annotations

import asyncio
import itertools
import threading
from typing import Any

import httpx
import pytest

from service.wiring import Deps
from tests.web.conftest import CountingBell, MiniWorker, Submit, job_body

pytestmark = pytest.mark.anyio


async def post(
    client: httpx.AsyncClient, key: str, path: str = "/v1/jobs", **changes: Any
) -> httpx.Response:
    # One output for each key: a repeated request is the same to the letter.
    output = {"connection": "artifacts", "prefix": key.encode().hex() + "/"}
    body = job_body(**{"output": output} | changes)
    return await client.post(path, json=body, headers={"Idempotency-Key": key})


async def test_the_same_request_has_the_same_answer_and_one_effect(
    client: httpx.AsyncClient, bell: CountingBell
) -> None:
    first = await post(client, "k")
    again = await post(client, "k")
    assert again.content == first.content
    assert again.status_code == first.status_code == 202
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert len((await client.get("/v1/jobs")).json()["jobs"]) == 1
    assert bell.rings == 1


async def test_a_key_belongs_to_one_request(client: httpx.AsyncClient) -> None:
    await post(client, "k")
    for other in (await post(client, "k", name="other"), await post(client, "k", "/v1/jobs?x=1")):
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert (await post(client, "K")).status_code == 202


async def test_keys_of_tenants_do_not_meet(client: httpx.AsyncClient, deps: Deps) -> None:
    first = await post(client, "k")
    client.headers["Authorization"] = f"Bearer {deps.keys.create('rival', 'r')[1]}"
    other_output = {"connection": "artifacts", "prefix": "rival/"}
    second = await post(client, "k", output=other_output)
    assert second.status_code == 202
    assert second.json()["id"] != first.json()["id"]


async def test_a_refused_request_leaves_the_key_free(client: httpx.AsyncClient) -> None:
    bad = await post(client, "k", source={"connection": "nowhere"})
    assert bad.status_code == 404
    invalid = await post(client, "k", priority="urgent")
    assert invalid.status_code == 422
    assert (await post(client, "k")).status_code == 202


async def test_requests_at_the_same_time_make_one_job(
    client: httpx.AsyncClient, deps: Deps, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = threading.Event()
    create = deps.ledger.create_job

    def slow(self: Any, job: Any) -> Any:
        go.wait(60)
        return create(job)

    monkeypatch.setattr(type(deps.ledger), "create_job", slow)
    sent = [asyncio.create_task(post(client, "k")) for _ in range(5)]
    # However slow the machine is, the one goes on when all others have been answered.
    refused = [await answer for answer in itertools.islice(asyncio.as_completed(sent), 4)]
    assert [answer.status_code for answer in refused] == [409] * 4
    go.set()
    answers = await asyncio.gather(*sent)
    assert sorted(answer.status_code for answer in answers) == [202, 409, 409, 409, 409]
    for answer in answers:
        if answer.status_code == 409:
            assert answer.json()["code"] == "idempotency_in_flight"
            assert answer.headers["retry-after"] == "1"
    assert (await post(client, "k")).headers["idempotency-replayed"] == "true"
    assert len((await client.get("/v1/jobs")).json()["jobs"]) == 1


async def test_cancel_and_retry_take_keys_too(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker
) -> None:
    job = await submit()
    worker.fail(job)
    for _ in range(2):
        response = await client.post(f"/v1/jobs/{job}/retry", headers={"Idempotency-Key": "again"})
        assert (response.status_code, response.json()["attempt"]) == (202, 2)


@pytest.mark.parametrize("given", ["", "x" * 256, "é"])
async def test_odd_keys_are_refused(client: httpx.AsyncClient, given: str) -> None:
    headers = {b"Idempotency-Key": given.encode()}
    response = await client.post("/v1/jobs", json=job_body(), headers=headers)
    assert (response.status_code, response.json()["code"]) == (422, "invalid_spec")


async def test_a_key_does_not_open_the_door(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    assert (await post(client, "k")).status_code == 401
