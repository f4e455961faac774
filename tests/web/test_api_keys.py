"""The keys of a tenant over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, select

from service.adapters.sql.tables import idempotency
from service.domain.access import ALL_SCOPES, Scope
from service.settings import Settings
from service.wiring import Deps
from tests.web.test_requests import check_problem

pytestmark = pytest.mark.anyio

READER = {"name": "reader", "scopes": ["jobs:read"]}


def bearer(secret: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {secret}"}


async def make(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    response = await client.post("/v1/api_keys", json=READER | changes)
    assert response.status_code == 201, response.text
    made: dict[str, Any] = response.json()
    assert response.headers["location"] == f"/v1/api_keys/{made['id']}"
    return made


async def test_a_key_made_over_http_opens_what_it_says(client: httpx.AsyncClient) -> None:
    made = await make(client)
    assert made["secret"].startswith(f"aq_{made['id']}_")
    assert (made["scopes"], made["expire_time"], made["last_use_time"]) == (
        ["jobs:read"],
        None,
        None,
    )
    opened = await client.get("/v1/jobs", headers=bearer(made["secret"]))
    assert opened.status_code == 200
    refused = await client.get("/v1/api_keys", headers=bearer(made["secret"]))
    check_problem(refused, 403, "forbidden")
    shown = (await client.get(f"/v1/api_keys/{made['id']}")).json()
    assert "secret" not in shown
    assert shown["last_use_time"] is not None


async def test_nobody_hands_out_more_than_his_own(client: httpx.AsyncClient, deps: Deps) -> None:
    wanted = READER | {"scopes": ["operator"]}
    refused = check_problem(await client.post("/v1/api_keys", json=wanted), 403, "forbidden")
    assert refused["where"] == {"scope": "operator"}
    # Nor does a rotation hand him the secret of a key that may do more.
    operator, _ = deps.keys.create("acme", "operator", frozenset({Scope.OPERATOR}))
    rotated = await client.post(f"/v1/api_keys/{operator.id}/rotate")
    check_problem(rotated, 403, "forbidden")
    client.headers.update(bearer(deps.keys.create("acme", "all", ALL_SCOPES)[1]))
    assert (await make(client, scopes=["operator"]))["scopes"] == ["operator"]


async def test_a_key_with_an_end(client: httpx.AsyncClient) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    made = await make(client, expire_time=until)
    assert datetime.fromisoformat(made["expire_time"]) == datetime.fromisoformat(until)
    past = await client.post("/v1/api_keys", json=READER | {"expire_time": "2001-01-01T00:00:00Z"})
    assert check_problem(past, 422, "invalid_spec")["errors"][0]["pointer"] == "/expire_time"


async def test_rotating_and_revoking(client: httpx.AsyncClient) -> None:
    made = await make(client)
    path = f"/v1/api_keys/{made['id']}"
    rotated = (await client.post(f"{path}/rotate", json={"grace_s": 600})).json()
    assert rotated["secret"] != made["secret"]
    assert rotated["grace_time"]
    for secret in (made["secret"], rotated["secret"]):
        assert (await client.get("/v1/jobs", headers=bearer(secret))).status_code == 200
    last = (await client.post(f"{path}/rotate", json={"grace_s": 0})).json()
    for secret in (made["secret"], rotated["secret"]):
        assert (await client.get("/v1/jobs", headers=bearer(secret))).status_code == 401
    for _ in range(2):
        revoked = await client.post(f"{path}/revoke")
        assert (revoked.status_code, bool(revoked.json()["revoke_time"])) == (200, True)
    assert (await client.get("/v1/jobs", headers=bearer(last["secret"]))).status_code == 401
    check_problem(await client.post(f"{path}/rotate"), 404, "not_found")


async def test_keys_page_by_page(client: httpx.AsyncClient, deps: Deps) -> None:
    deps.keys.create("rival", "not yours")
    made = [(await make(client))["id"] for _ in range(4)]
    seen: list[str] = []
    token = ""
    while True:
        page = (await client.get(f"/v1/api_keys?page_size=2{token}")).json()
        seen += [key["id"] for key in page["api_keys"]]
        if page["next_page_token"] is None:
            break
        token = f"&page_token={page['next_page_token']}"
    assert seen[1:] == made  # the first is the test's own
    assert len(seen) == 5


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"scopes": []}, "/scopes"),
        ({"scopes": ["root"]}, "/scopes/0"),
        ({"name": ""}, "/name"),
        ({"name": "a\0b"}, "/name"),
        ({"expire_time": "2030-01-01T00:00:00"}, "/expire_time"),
        ({"tenant": "rival"}, "/tenant"),
    ],
)
async def test_wrong_requests(
    client: httpx.AsyncClient, change: dict[str, Any], pointer: str
) -> None:
    response = await client.post("/v1/api_keys", json=READER | change)
    assert check_problem(response, 422, "invalid_spec")["errors"][0]["pointer"] == pointer


@pytest.mark.parametrize("key_id", ["aq_x", "0" * 12, "%00", "é", "x" * 500])
async def test_ids_that_are_none(client: httpx.AsyncClient, key_id: str) -> None:
    check_problem(await client.get(f"/v1/api_keys/{key_id}"), 404, "not_found")
    for verb in ("rotate", "revoke"):
        check_problem(await client.post(f"/v1/api_keys/{key_id}/{verb}"), 404, "not_found")


async def test_a_replayed_answer_has_no_secret_and_none_is_stored(
    client: httpx.AsyncClient, settings: Settings
) -> None:
    headers = {"Idempotency-Key": "once"}
    first = await client.post("/v1/api_keys", json=READER, headers=headers)
    again = await client.post("/v1/api_keys", json=READER, headers=headers)
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.json()) == (201, first.json() | {"secret": None})
    rotate = f"/v1/api_keys/{first.json()['id']}/rotate"
    second = await client.post(rotate, headers=headers)
    assert (await client.post(rotate, headers=headers)).json()["secret"] is None
    engine = create_engine(settings.resolved_database_url)
    with engine.connect() as connection:
        stored = b"".join(connection.execute(select(idempotency.c.body)).scalars())
    engine.dispose()
    assert first.json()["id"].encode() in stored
    for answer in (first, second):
        assert answer.json()["secret"].split("_", 2)[2].encode() not in stored
