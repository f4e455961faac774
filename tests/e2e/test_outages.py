"""Stores that end, die or freeze under a running service: nothing hangs, no answer is a lie."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from tests import weights
from tests.e2e.small import Service
from tests.servers import PostgresServer, RedisServer

# What a client could be asked to wait at the very most, on a machine that is busy.
BOUND_S = 25.0


@pytest.fixture
def service(
    tmp_path: Path, own_postgres: PostgresServer, own_redis: RedisServer
) -> Iterator[Service]:
    made = Service(tmp_path, own_postgres.create_database(), own_redis.url)
    with made.api:
        yield made


def within(seconds: float, ask: Callable[[], httpx.Response]) -> httpx.Response:
    """The answer, which must not take longer."""
    began = time.monotonic()
    answer = ask()
    assert time.monotonic() - began < seconds
    return answer


def part(answer: httpx.Response, name: str) -> dict[str, Any]:
    """One check of /readyz."""
    [found] = [check for check in answer.json()["checks"] if check["name"] == name]
    return dict(found)


def submit(service: Service, http: httpx.Client) -> str:
    answer = within(BOUND_S, lambda: http.post("/v1/jobs", json=service.body()))
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def wait(http: httpx.Client, job_id: str, state: str, seconds: float = 90) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (job := http.get(f"/v1/jobs/{job_id}?wait=5").json())["state"] != state:
        assert time.monotonic() < end, job
    return dict(job)


def test_the_broker_away_jobs_are_taken_and_done(service: Service, own_redis: RedisServer) -> None:
    """Frozen, then stopped: 202 in bounded time, and the workers find the jobs by themselves."""
    with service.worker, service.client() as http:
        own_redis.pause()
        frozen = submit(service, http)
        ready = within(BOUND_S, lambda: http.get("/readyz"))
        assert (ready.status_code, ready.json()["status"]) == (200, "degraded")
        assert part(ready, "broker")["error"] == "broker_unavailable"
        assert part(ready, "database")["status"] == "ok"
        assert part(ready, "sweeper")["age_s"] is not None
        wait(http, frozen, "SUCCEEDED")
        own_redis.resume()
        own_redis.stop()
        stopped = submit(service, http)
        wait(http, stopped, "SUCCEEDED")
        # A worker that is told to stop does so without the broker too.
        began = time.monotonic()
        service.worker.stop()
        assert time.monotonic() - began < BOUND_S


@pytest.mark.parametrize("how", ["frozen", "killed"])
def test_the_database_away_nothing_hangs(
    service: Service, own_postgres: PostgresServer, how: str
) -> None:
    with service.client() as http:
        submit(service, http)
        thaw = _freeze(own_postgres) if how == "frozen" else own_postgres.start
        if how == "killed":
            own_postgres.kill()
        try:
            for ask in (
                lambda: http.get("/v1/jobs"),
                lambda: http.post("/v1/jobs", json=service.body()),
                lambda: http.get("/v1/jobs"),
            ):
                answer = within(BOUND_S, ask)
                assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")
                assert "retry-after" in answer.headers
            ready = within(BOUND_S, lambda: http.get("/readyz"))
            assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
            assert part(ready, "database")["error"] == "database_unavailable"
            assert part(ready, "broker")["status"] == "ok"
            assert within(BOUND_S, lambda: http.get("/healthz")).status_code == 200
        finally:
            thaw()
        _serves_again(http)
        assert submit(service, http)


def _freeze(server: PostgresServer) -> Callable[[], object]:
    """Stop the server and every session of it, which are processes of their own; how to go on."""
    server.pause()
    assert server._process is not None
    sessions = psutil.Process(server._process.pid).children(recursive=True)
    for session in sessions:
        session.suspend()

    def thaw() -> None:
        for session in sessions:
            session.resume()
        server.resume()

    return thaw


def _serves_again(http: httpx.Client) -> None:
    end = time.monotonic() + BOUND_S
    while http.get("/v1/jobs").status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.1)


def test_what_was_accepted_outlives_the_database(
    service: Service, own_postgres: PostgresServer
) -> None:
    """SIGKILL right after each 202: the job is there when the database is back."""
    accepted = []
    with service.client() as http:
        for _ in range(2):
            accepted.append(submit(service, http))
            own_postgres.kill()
            own_postgres.start()
            _serves_again(http)
        found = {job["id"] for job in http.get("/v1/jobs").json()["jobs"]}
    assert found == set(accepted)
    address = service.environment["ARROWQUANT_DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(address) as connection:
        units = connection.execute("SELECT job_id FROM units WHERE kind = 'plan'").fetchall()
    assert {row[0] for row in units} == set(accepted)


def test_the_log_of_a_worker_that_was_killed(service: Service) -> None:
    """As of the out-of-memory killer: what it said before is in the job's log."""
    with service.client() as http:
        (Path(service.environment["ARROWQUANT_DATA_DIR"]).parent / "models" / "big").mkdir()
        weights.write(
            Path(service.environment["ARROWQUANT_DATA_DIR"]).parent
            / "models"
            / "big"
            / "model.safetensors",
            {
                f"blocks.{i}.mlp.weight": weights.bfloat16(weights.gaussian((4096, 2048), i))
                for i in range(4)
            },
        )
        with service.worker as worker:
            body = service.body() | {"source": {"connection": "models", "prefix": "big/"}}
            job_id = http.post("/v1/jobs", json=body | {"limits": {"threads": 1}}).json()["id"]
            worker.wait_for_more("unit_claimed", 1)
            claimed = time.monotonic()
            _until_logged(http, job_id, "unit_claimed", "quantize:0")
            assert time.monotonic() - claimed < BOUND_S
            for process in worker.pool():
                process.kill()
            worker.kill()
        lines = http.get(f"/v1/jobs/{job_id}/logs").json()["logs"]
        assert any(line["unit"] == "quantize:0" for line in lines)
        assert all(line["trace_id"] for line in lines)


def _until_logged(http: httpx.Client, job_id: str, event: str, unit: str) -> None:
    end = time.monotonic() + 60
    while not any(
        (line["event"], line["unit"]) == (event, unit)
        for line in http.get(f"/v1/jobs/{job_id}/logs").json()["logs"]
    ):
        assert time.monotonic() < end
        time.sleep(0.05)
