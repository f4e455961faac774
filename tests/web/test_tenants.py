"""Two tenants, every operation: no byte of one reaches the other.

The attack is made from `openapi.yaml`. A new operation is part of it by itself; if its path has a new
parameter, the test fails until MAKERS knows how to make a victim's id for it. What a tenant can store
is marked by PLANTS, so that a leak is seen wherever it comes out.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from fastapi import FastAPI

from service.domain.access import ALL_SCOPES, TENANT_SCOPES, Scope
from service.domain.ids import new_id
from service.domain.webhooks import DeliveryState, Endpoint, HookEvent, Outcome
from service.usecases import replays
from service.wiring import Deps
from tests.web.conftest import MiniWorker, job_body

pytestmark = pytest.mark.anyio

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "openapi.yaml").read_text(encoding="utf-8"))
MARK = "zebra7f3a"
OPEN = {"/healthz", "/readyz", "/version"}
# Operations that tell everybody with a key the same.
FOR_ALL = {"get_schemes"}


@dataclass(frozen=True)
class World:
    """The victim's side: his client, and what makes things happen to him."""

    client: httpx.AsyncClient
    deps: Deps
    worker: MiniWorker


_outputs = itertools.count(1)


async def finished_job(world: World) -> str:
    output = {"connection": "artifacts", "prefix": f"{MARK}/out{next(_outputs)}/"}
    labels = {MARK: MARK}
    made = await world.client.post(
        "/v1/jobs", json=job_body(name=MARK, labels=labels, output=output)
    )
    assert made.status_code == 202, made.text
    world.worker.finish(made.json()["id"])
    return str(made.json()["id"])


async def waiting_job(world: World) -> None:
    output = {"connection": "artifacts", "prefix": f"{MARK}/next/"}
    made = await world.client.post("/v1/jobs", json=job_body(name=f"{MARK} 2", output=output))
    assert made.status_code == 202, made.text


async def api_key(world: World) -> str:
    body = {"name": MARK, "scopes": ["jobs:read"]}
    made = await world.client.post("/v1/api_keys", json=body)
    assert made.status_code == 201, made.text
    return str(made.json()["id"])


async def finished_batch(world: World) -> str:
    output = {"connection": "artifacts", "prefix": f"{MARK}/batch/"}
    line = {"custom_id": MARK, "body": job_body(name=MARK, output=output)}
    made = await world.client.post(
        "/v1/batches",
        params={"name": MARK},
        content=json.dumps(line) + "\n",
        headers={"Content-Type": "application/jsonl"},
    )
    assert made.status_code == 202, made.text
    batch = str(made.json()["id"])
    (job,) = (await world.client.get("/v1/jobs", params={"batch_id": batch})).json()["jobs"]
    world.worker.finish(job["id"])
    world.deps.batches.sweep()
    return batch


async def connection(world: World) -> str:
    body = {
        "name": "theirs",
        "endpoint_url": "https://127.0.0.1:9",
        "bucket": MARK,
        "prefixes": [f"{MARK}/"],
        "credentials": {"access_key_id": MARK, "secret_access_key": MARK},
    }
    made = await world.client.post("/v1/connections", json=body)
    assert made.status_code == 201, made.text
    return "theirs"


async def webhook_endpoint(world: World) -> str:
    now = world.deps.clock.now()
    made = Endpoint(
        id=new_id("wh"),
        tenant="acme",
        url=f"https://{MARK}.example/",
        description=MARK,
        events=(HookEvent.PING,),  # of no job: no courier changes a delivery while others look
        disabled=None,
        secret=b"sealed by nobody: nothing is sent",
        old_secret=None,
        old_secret_until=None,
        failing_since=None,
        create_time=now,
        update_time=now,
    )
    world.deps.webhooks.create(made)
    return made.id


async def webhook_delivery(world: World) -> str:
    endpoint = await webhook_endpoint(world)
    webhooks, outbox = world.deps.webhooks, world.deps.outbox
    made = webhooks.queue("acme", endpoint, HookEvent.PING, {MARK: MARK}).id
    # Ended here, so that no courier changes it while others look.
    while webhooks.delivery("acme", made).state is DeliveryState.PENDING:
        webhooks.redeliver("acme", made)
        for errand in outbox.claim(1):
            outbox.finish(errand, Outcome(world.deps.clock.now(), 0, 410), None)
    return made


async def replay(world: World) -> str:
    deps = world.deps
    places = replays.of_job(deps.ledger, "acme", await finished_job(world), None)
    return replays.create(deps.stores, deps.ledger, deps.bell, "acme", *places).job.id


async def recipe(world: World) -> str:
    world.deps.recipes.add("acme", "their-recipe", {"rules": [{"match": f"{MARK}*", "bits": 8}]})
    return "their-recipe"


def always(text: str) -> Callable[[World], Awaitable[str]]:
    async def made(_: World) -> str:
        return text

    return made


# The victim's id for a parameter of a path, by its name; where one name means two things, by the path
# up to it, as in "/v1/recipes/{name}". Made once, in this order.
MAKERS: dict[str, Callable[[World], Awaitable[str]]] = {
    "job_id": finished_job,
    "name": always("manifest.json"),
    "/v1/connections/{name}": connection,
    "key_id": api_key,
    "batch_id": finished_batch,
    "endpoint_id": webhook_endpoint,
    "delivery_id": webhook_delivery,
    "/v1/replays/{job_id}": replay,
    "recipe_name": recipe,
    "version": always("1"),
    "tenant": always("acme"),
    "worker_id": always("wrk_0f1e2d3c4b5a69788796a5b4"),
}
# Answers to the victim himself that must show the mark, or its absence elsewhere says nothing.
MARKED = {
    *("get_job", "list_jobs", "get_api_key", "list_api_keys", "get_batch", "list_batches"),
    *("get_connection", "get_webhook_endpoint"),
}
# What else a tenant can have and another must not see.
PLANTS: tuple[Callable[[World], Awaitable[None]], ...] = (waiting_job,)


@dataclass(frozen=True)
class Operation:
    """An operation of the document."""

    name: str
    method: str
    path: str
    description: dict[str, Any]

    @property
    def scopes(self) -> list[str]:
        return [s for r in self.description.get("security", []) for s in r["ApiKey"]]

    @property
    def operators(self) -> bool:
        """Whether it is about the service, not about a tenant."""
        return self.scopes == ["operator"]

    @property
    def parameters(self) -> list[str]:
        given = self.description.get("parameters", [])
        return [parameter["name"] for parameter in given if parameter["in"] == "path"]

    def body(self, ids: dict[str, str]) -> dict[str, Any]:
        """The example of the document, with the victim's ids wherever an id may stand: arguments of
        a request."""
        ((kind, content),) = self.description.get("requestBody", _NO_BODY)["content"].items()
        example = next(iter(content["examples"].values()))["value"]
        if kind == "application/json":
            return {"json": _with_ids(example, ids)}
        return {"content": example, "headers": {"Content-Type": kind}}

    def query(self, ids: dict[str, str]) -> dict[str, str]:
        given = self.description.get("parameters", [])
        names = {parameter["name"] for parameter in given if parameter["in"] == "query"}
        return {name: ids[name] for name in names & ids.keys() if name.endswith("_id")}

    def url(self, ids: dict[str, str]) -> str:
        filled: dict[str, str] = {}
        for name in self.parameters:
            before, _, _ = self.path.partition(f"{{{name}}}")
            found = ids.get(f"{before}{{{name}}}", ids.get(name))
            assert found, f"{self.name}: tell MAKERS how to make a victim's {name}"
            filled[name] = found
        return self.path.format(**filled)

    def streams(self) -> bool:
        return "text/event-stream" in str(self.description["responses"].get("200", {}))


# Some POSTs have no body; they take none for an empty JSON one.
_NO_BODY = {"content": {"application/json": {"examples": {"none": {"value": None}}}}}


def _with_ids(value: Any, ids: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: ids[key] if key in ids and key.endswith("_id") else _with_ids(item, ids)
            for key, item in value.items()
        }
    return [_with_ids(item, ids) for item in value] if isinstance(value, list) else value


OPERATIONS = [
    Operation(description["operationId"], method, path, description)
    for path, methods in DOCUMENT["paths"].items()
    for method, description in methods.items()
]
CLOSED = [operation for operation in OPERATIONS if operation.path not in OPEN]


def _bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


@asynccontextmanager
async def _as(
    app: FastAPI, deps: Deps, tenant: str, scopes: frozenset[Scope]
) -> AsyncIterator[Any]:
    key = deps.keys.create(tenant, "attacker", scopes)[1]
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(app), base_url="http://test", headers=_bearer(key)
    ) as client:
        yield client


@pytest.fixture
def world(client: httpx.AsyncClient, deps: Deps, worker: MiniWorker) -> World:
    return World(client, deps, worker)


@pytest.fixture
async def ids(world: World) -> dict[str, str]:
    """The victim's ids, with everything of his marked."""
    made = {name: await make(world) for name, make in MAKERS.items()}
    for plant in PLANTS:
        await plant(world)
    return made


async def _send(
    client: httpx.AsyncClient, operation: Operation, ids: dict[str, str], **more: Any
) -> httpx.Response:
    arguments = operation.body(ids) | more
    arguments["headers"] = operation.body(ids).get("headers", {}) | more.get("headers", {})
    return await client.request(operation.method, operation.url(ids), **arguments)


def test_every_operation_is_closed_or_named_here() -> None:
    unnamed = [o.name for o in OPERATIONS if not o.description.get("security")]
    assert {o.path for o in OPERATIONS if o.name in unnamed} <= OPEN
    assert {o.name for o in CLOSED if not o.scopes} == FOR_ALL
    assert len(CLOSED) >= 18


async def test_every_operation_wants_a_key(client: httpx.AsyncClient, ids: dict[str, str]) -> None:
    del client.headers["Authorization"]
    for operation in CLOSED:
        for header in ({}, _bearer("aq_000000000000_" + "A" * 43)):
            answer = await _send(client, operation, ids, headers=header)
            assert answer.status_code == 401, (operation.name, answer.text)
            assert MARK not in answer.text, operation.name


async def test_every_operation_asks_for_its_scope(
    app: FastAPI, deps: Deps, ids: dict[str, str]
) -> None:
    for scope in Scope:
        implying = {scope} if scope is Scope.OPERATOR else {scope, Scope.ADMIN}
        async with _as(app, deps, "acme", ALL_SCOPES - implying) as client:
            for operation in CLOSED:
                if scope.value not in operation.scopes:
                    continue
                answer = await _send(client, operation, ids)
                assert answer.status_code == 403, (operation.name, answer.text)
                problem = answer.json()
                assert (problem["code"], problem["where"]) == ("forbidden", {"scope": scope.value})
                assert MARK not in answer.text, operation.name


async def test_no_byte_of_one_tenant_reaches_the_other(
    app: FastAPI, world: World, ids: dict[str, str]
) -> None:
    before = await _everything(world.client, ids)
    assert {name for name in MARKED if MARK not in before[name]} == set()
    async with _as(app, world.deps, "rival", TENANT_SCOPES) as rival:
        for operation in CLOSED:
            for answer in await _attacks(rival, operation, ids):
                assert MARK not in answer.text + str(answer.headers), (operation.name, answer.text)
                assert answer.status_code < 500, (operation.name, answer.text)
                if operation.operators:
                    assert answer.status_code == 403, (operation.name, answer.text)
                elif operation.parameters:
                    expected = (404, "not_found")
                    found = (answer.status_code, answer.json().get("code"))
                    assert found == expected, (operation.name, answer.text)
    # Nor has the attack changed anything.
    assert await _everything(world.client, ids) == before


async def _attacks(
    rival: httpx.AsyncClient, operation: Operation, ids: dict[str, str]
) -> list[httpx.Response]:
    """The answers to a plain request, one with the victim's ids as filters, one for the stream."""
    answers = [await _send(rival, operation, ids)]
    if query := operation.query(ids):
        answers.append(await _send(rival, operation, ids, params=query))
    if operation.streams():
        answers.append(await _send(rival, operation, ids, headers={"Accept": "text/event-stream"}))
    return answers


async def _everything(client: httpx.AsyncClient, ids: dict[str, str]) -> dict[str, str]:
    """All that the tenant can read himself, by operation."""
    found: dict[str, str] = {}
    for operation in _readable():
        answer = await client.request("GET", operation.url(ids))
        assert answer.status_code == 200, (operation.name, answer.text)
        # Reading is a use of his own key.
        found[operation.name] = re.sub(r'"last_use_time":"[^"]*"', "", answer.text)
    return found


def _readable() -> Iterator[Operation]:
    return (o for o in CLOSED if o.method == "get" and not o.operators)
