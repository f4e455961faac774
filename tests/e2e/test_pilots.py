"""Pilots of a cluster beside a worker that the broker wakes, on one ledger."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.e2e.deployment import ROOT
from tests.e2e.small import Service

JOBS = 4


@pytest.fixture
def service(tmp_path: Path, postgres_database: str, redis_url: str) -> Iterator[Service]:
    made = Service(tmp_path, postgres_database, redis_url)
    with made.api:
        yield made


def fly(service: Service) -> subprocess.Popen[str]:
    """A pilot as a batch job of a cluster starts one."""
    command = [sys.executable, "-m", "workers", "--drain", "--exit-when-idle", "1"]
    environment = os.environ | service.environment | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def done(lines: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Job and unit of everything that a process finished."""
    return [(line["job_id"], line["unit"]) for line in lines if line.get("event") == "unit_done"]


def ended(http: httpx.Client, job_id: str) -> None:
    """Wait for a job's good end."""
    end = time.monotonic() + 120
    while (job := http.get(f"/v1/jobs/{job_id}?wait=5").json())["state"] != "SUCCEEDED":
        assert job["state"] in ("QUEUED", "RUNNING"), job
        assert time.monotonic() < end, job


def test_pilots_beside_a_worker(service: Service) -> None:
    """Both take part, every unit is done once, and the pilot ends well when nothing is left."""
    with service.client() as http, service.worker as worker:
        first = http.post("/v1/jobs", json=service.body()).json()["id"]
        ended(http, first)
        # While its process stands still, all there is waits for the pilot; then both go on.
        for process in worker.pool():
            process.suspend()
        made = [http.post("/v1/jobs", json=service.body()).json()["id"] for _ in range(JOBS)]
        pilot = fly(service)
        assert pilot.stdout is not None
        lines = []
        try:
            for text in pilot.stdout:
                lines.append(json.loads(text))
                if lines[-1].get("event") == "unit_done":
                    break
        finally:
            for process in worker.pool():
                process.resume()
        rest, _ = pilot.communicate(timeout=120)
        assert pilot.returncode == 0, rest
        lines += [json.loads(text) for text in rest.splitlines()]
        for job_id in (first, *made):
            ended(http, job_id)
        by_pilot, by_worker = done(lines), done(worker.lines())
    assert by_pilot
    assert by_worker
    assert lines[-1]["why"] == "idle"
    address = service.environment["ARROWQUANT_DATABASE_URL"].replace("+psycopg", "")
    with psycopg.connect(address) as connection:
        query = "SELECT job_id, kind, seq, fence FROM units WHERE state = 'DONE'"
        units = connection.execute(query).fetchall()
    assert {fence for *_, fence in units} == {1}  # nobody took what another had
    assert Counter(by_pilot + by_worker) == Counter(
        (job_id, f"{kind}:{seq}") for job_id, kind, seq, _ in units
    )
