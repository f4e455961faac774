"""Quotas, usage and the rate of requests over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from service.domain.access import ALL_SCOPES
from service.domain.quotas import Quota
from service.settings import InvalidSettings, Settings
from service.usecases.quotas import Limiter
from service.web.app import create_app
from service.wiring import Deps
from tests.web.conftest import MiniWorker, Submit, job_body
from tests.web.test_requests import check_problem

pytestmark = pytest.mark.anyio


def operator(deps: Deps) -> dict[str, str]:
    return {"Authorization": f"Bearer {deps.keys.create('ops', 'o', ALL_SCOPES)[1]}"}


async def limit(client: httpx.AsyncClient, deps: Deps, **limits: int | None) -> None:
    response = await client.put("/v1/quotas/acme", json=limits, headers=operator(deps))
    assert response.status_code == 200, response.text
    assert response.json()["overrides"] == limits


async def test_a_tenant_sees_what_it_may_have_and_has(
    client: httpx.AsyncClient, deps: Deps, submit: Submit, worker: MiniWorker
) -> None:
    done, running = await submit(), await submit()
    await submit()
    worker.finish(done)
    worker.start(running)
    await limit(client, deps, running_jobs=3, bytes_per_day=None)
    quota = (await client.get("/v1/quota")).json()
    assert quota["limits"] == {
        "running_jobs": 3, "queued_jobs": 100_000, "bytes_per_day": None,
        "requests_per_minute": None,
    }  # fmt: skip
    used = quota["used"]
    source = 4 * 64 * 64 + 4 * 64 + 2 * 128 * 64
    assert (used["running_jobs"], used["queued_jobs"], used["bytes_today"]) == (1, 1, 3 * source)
    assert datetime.fromisoformat(used["reset_time"]) > datetime.now(UTC)
    (day,) = (await client.get("/v1/usage")).json()["days"]
    assert (day["jobs"], day["jobs_succeeded"], day["bytes_planned"]) == (3, 1, 3 * source)
    assert day["bytes_in"] == source
    assert day["bytes_out"] > 0
    assert (await client.get("/v1/usage?from=2020-01-01&to=2020-12-31")).json() == {"days": []}
    for wrong in ("from=2021-01-02&to=2021-01-01", "from=2020-01-01&to=2021-01-01", "from=x"):
        check_problem(await client.get(f"/v1/usage?{wrong}"), 422, "invalid_spec")


async def test_what_is_too_much_is_refused_with_a_time(
    client: httpx.AsyncClient, deps: Deps
) -> None:
    await limit(client, deps, queued_jobs=1)
    assert (await client.post("/v1/jobs", json=job_body())).status_code == 202
    refused = await client.post("/v1/jobs", json=job_body(), headers={"Idempotency-Key": "k"})
    problem = check_problem(refused, 429, "quota_exceeded")
    assert problem["where"]["limit"] == "queued_jobs"
    assert (problem["fault"], problem["retryable"]) == ("limit", True)
    assert int(refused.headers["retry-after"]) > 0
    await limit(client, deps)
    again = await client.post("/v1/jobs", json=job_body(), headers={"Idempotency-Key": "k"})
    assert again.status_code == 202  # a refusal is not an answer to keep
    await limit(client, deps, bytes_per_day=10)
    refused = await client.post("/v1/jobs", json=job_body())
    assert check_problem(refused, 429, "quota_exceeded")["where"]["limit"] == "bytes_per_day"
    assert int(refused.headers["retry-after"]) <= 86400


@pytest.mark.parametrize(
    ("tenant", "body", "status"),
    [
        ("acme", {"running_jobs": 0}, 422),
        ("acme", {"running_jobs": "many"}, 422),
        ("acme", {"jobs": 1}, 422),
        ("acme", {"requests_per_minute": 0}, 422),
        ("a%00b", {}, 404),
        ("x" * 200, {}, 404),
    ],
)
async def test_wrong_quotas(
    client: httpx.AsyncClient, deps: Deps, tenant: str, body: dict[str, Any], status: int
) -> None:
    answer = await client.put(f"/v1/quotas/{tenant}", json=body, headers=operator(deps))
    assert answer.status_code == status, answer.text


async def test_an_admin_cannot_raise_his_own_quota(client: httpx.AsyncClient) -> None:
    answer = await client.put("/v1/quotas/acme", json={"running_jobs": None})
    check_problem(answer, 403, "forbidden")


async def test_every_answer_says_how_the_rate_stands(client: httpx.AsyncClient, deps: Deps) -> None:
    assert "ratelimit" not in (await client.get("/v1/jobs")).headers
    app_limiter(client)._limits.clear()
    await limit(client, deps, requests_per_minute=3)
    for left in (2, 1, 0):
        answer = await client.get("/v1/jobs" if left else "/v1/jobs/job_0")
        assert answer.headers["ratelimit-policy"] == '"requests";q=3;w=60'
        name, remaining, reset = answer.headers["ratelimit"].split(";")
        assert (name, remaining) == ('"requests"', f"r={left}")
        assert 0 < int(reset.removeprefix("t=")) <= 60
    refused = await client.get("/v1/jobs")
    problem = check_problem(refused, 429, "rate_limited")
    assert problem["where"]["limit"] == "requests_per_minute"
    assert refused.headers["ratelimit"].startswith('"requests";r=0;t=')
    assert 0 < int(refused.headers["retry-after"]) <= 60
    # Others are not held up, and what asks for no key is not counted.
    assert (await client.get("/v1/jobs", headers=operator(deps))).status_code == 200
    assert (await client.get("/healthz")).status_code == 200


def app_limiter(client: httpx.AsyncClient) -> Limiter:
    transport: Any = client._transport
    limiter: Limiter = transport.app.state.context.limiter
    return limiter


def test_a_window_ends(deps: Deps) -> None:
    moment = [100.0]
    deps.quotas.override("acme", {"requests_per_minute": 2})
    limiter = Limiter(deps.quotas, lambda: moment[0])

    def remaining() -> int:
        rate = limiter.count("acme")
        assert rate is not None
        return rate.remaining

    assert [remaining() for _ in range(4)] == [1, 0, -1, -1]
    moment[0] += 59.9
    assert remaining() == -1
    moment[0] += 0.1
    assert remaining() == 1
    assert limiter.count("other") is None
    deps.quotas.override("acme", {"requests_per_minute": 9})
    moment[0] += 5
    assert remaining() == 0
    moment[0] += 5
    assert remaining() == 6


@pytest.fixture
async def small(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A service whose settings let every tenant have one job."""
    limited = settings.model_copy(update={"quota_queued_jobs": 1, "auth": False})
    app = create_app(limited)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client,
    ):
        yield client


async def test_the_settings_are_the_defaults(small: httpx.AsyncClient) -> None:
    assert (await small.post("/v1/jobs", json=job_body())).status_code == 202
    refused = await small.post("/v1/jobs", json=job_body())
    check_problem(refused, 429, "quota_exceeded")


def test_limits_are_set_by_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROWQUANT_QUOTA_QUEUED_JOBS", "none")
    monkeypatch.setenv("ARROWQUANT_QUOTA_RUNNING_JOBS", "3")
    monkeypatch.setenv("ARROWQUANT_QUOTA_BYTES_PER_DAY", "2TB")
    quota = Settings.load().quota
    assert quota == Quota(running_jobs=3, queued_jobs=None, bytes_per_day=2 * 10**12)
    monkeypatch.setenv("ARROWQUANT_QUOTA_RUNNING_JOBS", "0")
    with pytest.raises(InvalidSettings, match="QUOTA_RUNNING_JOBS"):
        Settings.load()
