"""What a key allows: every operation asks for its scope, and nothing else opens it."""

from __future__ import annotations

import httpx
import pytest

from service.domain.access import ALL_SCOPES, TENANT_SCOPES, Principal, Scope
from service.domain.errors import ArrowQuantError
from service.wiring import Deps
from tests.web.conftest import job_body
from tests.web.test_requests import check_problem

pytestmark = pytest.mark.anyio


def as_key(client: httpx.AsyncClient, deps: Deps, *scopes: Scope) -> None:
    text = deps.keys.create("acme", "narrow", frozenset(scopes))[1]
    client.headers["Authorization"] = f"Bearer {text}"


async def test_what_a_key_may_not_do_is_refused_by_name(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    as_key(client, deps, Scope.JOBS_READ)
    assert (await client.get("/v1/jobs")).status_code == 200
    problem = check_problem(await client.post("/v1/jobs", json=job_body()), 403, "forbidden")
    assert problem["where"] == {"scope": "jobs:write"}
    assert problem["detail"] == "this needs the scope jobs:write; the caller has jobs:read"


async def test_admin_implies_what_is_the_tenants_and_operator_nothing(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    as_key(client, deps, Scope.ADMIN)
    assert (await client.get("/v1/jobs")).status_code == 200
    assert (await client.post("/v1/jobs", json=job_body())).status_code == 202
    as_key(client, deps, Scope.OPERATOR)
    check_problem(await client.get("/v1/jobs"), 403, "forbidden")


async def test_a_stored_answer_is_for_those_only_who_may_ask(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    headers = {"Idempotency-Key": "k"}
    body = job_body()
    assert (await client.post("/v1/jobs", json=body, headers=headers)).status_code == 202
    as_key(client, deps, Scope.JOBS_READ)
    answer = await client.post("/v1/jobs", json=body, headers=headers)
    check_problem(answer, 403, "forbidden")
    assert "idempotency-replayed" not in answer.headers


@pytest.mark.parametrize(
    ("held", "may"),
    [
        ({Scope.ADMIN}, TENANT_SCOPES),
        ({Scope.OPERATOR}, {Scope.OPERATOR}),
        ({Scope.JOBS_WRITE}, {Scope.JOBS_WRITE}),
        (set(), set()),
        (ALL_SCOPES, ALL_SCOPES),
    ],
)
async def test_what_scopes_imply(held: set[Scope], may: set[Scope]) -> None:
    principal = Principal("t", "key:k", frozenset(held))
    assert {scope for scope in Scope if principal.may(scope)} == may
    for scope in set(Scope) - may:
        with pytest.raises(ArrowQuantError, match=scope.value):
            principal.require([scope])
