"""Workers and queues over HTTP: for operators only."""

from __future__ import annotations

import httpx
import pytest

from service.domain.access import TENANT_SCOPES, Scope
from service.domain.job import Worker
from service.wiring import Deps
from tests.web.conftest import WORKER, MiniWorker, Submit

pytestmark = pytest.mark.anyio


@pytest.fixture
def operator(deps: Deps) -> dict[str, str]:
    key = deps.keys.create("operators", "o", scopes=frozenset({Scope.OPERATOR}))[1]
    return {"Authorization": f"Bearer {key}"}


async def test_workers_are_listed_and_drained(
    client: httpx.AsyncClient,
    operator: dict[str, str],
    deps: Deps,
    submit: Submit,
    worker: MiniWorker,
) -> None:
    deps.fleet.beat(WORKER, "1.0", 7, draining=False)
    job = await submit()
    worker.start(job)
    [found] = (await client.get("/v1/workers", headers=operator)).json()["workers"]
    assert (found["state"], found["unit"]["job_id"], found["rss_bytes"]) == ("BUSY", job, 7)
    asked = await client.post(f"/v1/workers/{found['id']}/drain", headers=operator)
    assert (asked.status_code, asked.json()["state"]) == (200, "DRAINING")
    assert deps.fleet.beat(WORKER, "1.0", 7, draining=False) is True


async def test_pages_of_workers(
    client: httpx.AsyncClient, operator: dict[str, str], deps: Deps
) -> None:
    for pid in range(3):
        deps.fleet.beat(Worker(f"h:{pid}:1", "h", pid), "1.0", 7, draining=False)
    path = "/v1/workers?page_size=2"
    first = (await client.get(path, headers=operator)).json()
    token = first["next_page_token"]
    rest = (await client.get(f"{path}&page_token={token}", headers=operator)).json()
    ids = [one["id"] for one in first["workers"] + rest["workers"]]
    assert ids == [one.id for one in deps.fleet.workers()]
    assert rest["next_page_token"] is None


@pytest.mark.parametrize("name", ["wrk_" + "0" * 24, "x", "wrk_ZZ"])
async def test_an_unknown_worker(
    client: httpx.AsyncClient, operator: dict[str, str], name: str
) -> None:
    response = await client.post(f"/v1/workers/{name}/drain", headers=operator)
    assert (response.status_code, response.json()["code"]) == (404, "not_found")


async def test_queues(client: httpx.AsyncClient, operator: dict[str, str], submit: Submit) -> None:
    await submit(priority="high")
    queues = (await client.get("/v1/queues", headers=operator)).json()["queues"]
    assert [one["priority"] for one in queues] == ["high", "normal", "low"]
    assert (queues[0]["depth"], queues[0]["jobs"]) == (1, 1)
    assert queues[0]["tenants"][0]["tenant"] == "acme"


async def test_tenants_may_not_look(client: httpx.AsyncClient, deps: Deps) -> None:
    key = deps.keys.create("acme", "x", scopes=TENANT_SCOPES)[1]
    headers = {"Authorization": f"Bearer {key}"}
    for method, path in [
        ("GET", "/v1/workers"),
        ("GET", "/v1/queues"),
        ("POST", "/v1/workers/wrk_000000000000000000000000/drain"),
    ]:
        response = await client.request(method, path, headers=headers)
        assert response.status_code == 403, path
