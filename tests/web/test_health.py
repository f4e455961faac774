"""Probes, and requests while the database or the broker is really away."""

from __future__ import annotations

import base64
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import FastAPI

from service import tracing
from service.adapters.celery_bell import CeleryBell
from service.settings import Settings
from service.web.app import create_app
from service.wiring import Deps
from tests.servers import PostgresServer, RedisServer
from tests.web.conftest import CountingBell, job_body, serving


@pytest.mark.anyio
async def test_all_is_well(client: httpx.AsyncClient) -> None:
    del client.headers["Authorization"]
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    ready = await client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json()["status"] == "ready"
    names = [check["name"] for check in ready.json()["checks"]]
    assert names == ["database", "broker", "sweeper", "leases"]
    assert all(check["status"] == "ok" for check in ready.json()["checks"])
    version = (await client.get("/version")).json()
    assert version["api"] == "v1"
    assert version["version"]


@pytest.mark.anyio
async def test_without_the_broker_the_service_is_degraded_but_ready(
    client: httpx.AsyncClient, bell: CountingBell
) -> None:
    bell.broken = True
    ready = await client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
    broker = ready.json()["checks"][1]
    assert (broker["status"], broker["error"]) == ("error", "broker_unavailable")


@pytest.fixture
def on_postgres(
    settings: Settings, bell: CountingBell, own_postgres: PostgresServer
) -> Iterator[str]:
    """The address of a service whose database this test may stop."""
    from service.wiring import wire

    changed = settings.model_copy(
        update={"database_url": own_postgres.create_database(), "auth": False}
    )
    deps = dataclasses.replace(wire(changed), bell=bell)
    with serving(create_app(changed, lambda _: deps)) as url:
        yield url


def test_without_the_database_nothing_hangs_and_all_comes_back(
    on_postgres: str, own_postgres: PostgresServer
) -> None:
    with httpx.Client(base_url=on_postgres, timeout=20) as http:
        assert http.post("/v1/jobs", json=job_body()).status_code == 202
        own_postgres.kill()
        started = time.monotonic()
        for _ in range(3):
            away = http.get("/v1/jobs")
            assert (away.status_code, away.json()["code"]) == (503, "database_unavailable")
            assert "retry-after" in away.headers
        refused = http.post("/v1/jobs", json=job_body())
        assert refused.json()["code"] == "database_unavailable"
        ready = http.get("/readyz")
        assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
        assert http.get("/healthz").status_code == 200
        assert time.monotonic() - started < 10
        own_postgres.start()
        assert len(http.get("/v1/jobs").json()["jobs"]) == 1
        assert http.get("/readyz").json()["status"] == "ready"


class TestBell:
    """The real doorbell on a real broker."""

    def test_a_ring_is_one_empty_message(self, redis_server: RedisServer, redis_url: str) -> None:
        bell = CeleryBell(redis_url, Path())
        bell.check()
        bell.ring()
        bell.ring()
        with redis_server.client() as client:
            assert client.llen("arrowquant") == 2
            message = client.lindex("arrowquant", 0)
            assert isinstance(message, bytes)
            assert b"arrowquant.work" in message
            assert b'"argsrepr": "()"' in message
        bell.close()

    def test_a_ring_carries_the_id_of_its_trace_and_nothing_else(
        self, redis_server: RedisServer, redis_url: str
    ) -> None:
        bell = CeleryBell(redis_url, Path())
        ids = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        with (
            tracing.span("request", parent=ids),
            structlog.contextvars.bound_contextvars(tenant="acme", job_id="job_1"),
        ):
            bell.ring()
        bell.close()
        with redis_server.client() as client:
            message = json.loads(client.lindex("arrowquant", 0))
        assert message["content-type"] == "application/json"
        assert json.loads(base64.b64decode(message["body"]))[:2] == [[], {}]
        assert tracing.id_of(message["headers"]["traceparent"]) == tracing.id_of(ids)
        assert "acme" not in repr(message)
        assert "job_1" not in repr(message)

    def test_a_broker_that_is_down_is_noticed_fast_and_found_again(
        self, own_redis: RedisServer
    ) -> None:
        bell = CeleryBell(own_redis.url, Path())
        bell.ring()
        own_redis.restart()
        bell.ring()  # a closed connection is made anew
        own_redis.stop()
        for question in (bell.ring, bell.check, bell.ring):
            assert _fails_within(question, 1.0)
        own_redis.start()
        time.sleep(2.1)
        bell.ring()
        bell.check()
        bell.close()

    def test_a_frozen_broker_blocks_nobody_for_long(self, own_redis: RedisServer) -> None:
        bell = CeleryBell(own_redis.url, Path())
        bell.ring()
        own_redis.pause()
        try:
            assert _fails_within(bell.ring, 2.8)
            assert _fails_within(bell.ring, 0.1)
            assert _fails_within(bell.check, 2.8)
        finally:
            own_redis.resume()
        bell.close()

    def test_files_are_a_bell_too(self, tmp_path: Path) -> None:
        bell = CeleryBell("filesystem://", tmp_path / "data")
        bell.ring()
        bell.check()
        assert len(list((tmp_path / "data" / "bell").iterdir())) == 1
        bell.close()

    def test_the_address_is_never_told(self) -> None:
        from service.domain.errors import ArrowQuantError

        bell = CeleryBell("redis://user:hunter2@127.0.0.1:1/0", Path())
        with pytest.raises(ArrowQuantError) as raised:
            bell.ring()
        assert "hunter2" not in str(raised.value)
        bell.close()


def test_a_job_is_accepted_within_three_seconds_of_a_frozen_broker(
    settings: Settings, deps: Deps, key: str, own_redis: RedisServer
) -> None:
    bell = CeleryBell(own_redis.url, settings.data_dir)
    app: FastAPI = create_app(settings, lambda _: dataclasses.replace(deps, bell=bell))
    headers = {"Authorization": f"Bearer {key}"}
    with serving(app) as url, httpx.Client(base_url=url, headers=headers, timeout=10) as http:
        own_redis.pause()
        try:
            for _ in range(3):
                started = time.monotonic()
                assert http.post("/v1/jobs", json=job_body()).status_code == 202
                assert time.monotonic() - started < 3
            assert http.get("/readyz").json()["status"] == "degraded"
        finally:
            own_redis.resume()
    bell.close()


def _fails_within(question: object, seconds: float) -> bool:
    from service.domain.errors import ArrowQuantError

    started = time.monotonic()
    with pytest.raises(ArrowQuantError) as raised:
        question()  # type: ignore[operator]
    assert raised.value.code == "broker_unavailable"
    return time.monotonic() - started < seconds
