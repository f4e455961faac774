"""What the API tells Prometheus, read by Prometheus's own parser."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from service.domain.access import Scope
from service.domain.errors import ArrowQuantError
from service.domain.figures import Figures
from service.settings import Settings
from service.web.app import create_app
from service.web.metrics import LedgerCollector
from service.wiring import Deps
from tests.processes import HOST, free_port
from tests.web.conftest import MiniWorker, Submit, serving

pytestmark = pytest.mark.anyio
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
DURATION = "arrowquant_http_request_duration_seconds"


def parse(text: str) -> Samples:
    """Every sample by its name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[(name, frozenset(labels.items()))]


@pytest.fixture
def operator(deps: Deps) -> dict[str, str]:
    """Headers of somebody who looks after the service."""
    text = deps.keys.create("ops", "prometheus", frozenset({Scope.OPERATOR}))[1]
    return {"Authorization": f"Bearer {text}"}


async def scrape(client: httpx.AsyncClient, operator: dict[str, str]) -> Samples:
    answer = await client.get("/metrics", headers=operator)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain")
    return parse(answer.text)


async def test_requests_count_by_template_and_status(
    client: httpx.AsyncClient, submit: Submit, operator: dict[str, str]
) -> None:
    ids = [await submit(), await submit()]
    for job_id in ids:
        await client.get(f"/v1/jobs/{job_id}")
    await client.get("/v1/jobs/job_nobody_has")
    samples = await scrape(client, operator)
    one = {"method": "GET", "route": "/v1/jobs/{job_id}"}
    assert value(samples, f"{DURATION}_count", **one, status="200") == 2
    assert value(samples, f"{DURATION}_count", **one, status="404") == 1
    posted = {"method": "POST", "route": "/v1/jobs", "status": "202"}
    assert value(samples, f"{DURATION}_count", **posted) == 2
    assert value(samples, "arrowquant_http_requests_in_flight") == 1  # the scrape itself


async def test_paths_that_nobody_knows_are_one_series(
    client: httpx.AsyncClient, operator: dict[str, str]
) -> None:
    for number in range(20):
        await client.get(f"/wp-admin/{number}")
        await client.request(f"METHOD{number}", "/v1/jobs")
    samples = await scrape(client, operator)
    seen = {dict(labels)["route"] for name, labels in samples if name == f"{DURATION}_count"}
    methods = {dict(labels)["method"] for name, labels in samples if name == f"{DURATION}_count"}
    assert seen <= {"unmatched", "/v1/jobs"}
    assert methods <= {"GET", "OTHER"}
    unknown = {"method": "GET", "route": "unmatched", "status": "404"}
    assert value(samples, f"{DURATION}_count", **unknown) == 20


async def test_jobs_units_and_failures(
    client: httpx.AsyncClient, submit: Submit, worker: MiniWorker, operator: dict[str, str]
) -> None:
    worker.fail(await submit())
    await submit(priority="high")
    samples = await scrape(client, operator)
    assert value(samples, "arrowquant_ledger_up") == 1
    assert value(samples, "arrowquant_jobs", state="QUEUED") == 1
    assert value(samples, "arrowquant_jobs", state="SUCCEEDED") == 0
    assert value(samples, "arrowquant_failed_jobs", code="non_finite_weights") == 1
    assert value(samples, "arrowquant_queued_jobs", priority="high") == 1
    assert value(samples, "arrowquant_queued_jobs", priority="normal") == 0
    assert value(samples, "arrowquant_queue_age_seconds", priority="high") >= 0
    assert value(samples, "process_resident_memory_bytes") > 1e6


async def test_it_needs_an_operators_key(client: httpx.AsyncClient) -> None:
    answer = await client.get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    assert "arrowquant_jobs" not in answer.text
    del client.headers["Authorization"]
    answer = await client.get("/metrics")
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert "arrowquant_jobs" not in answer.text


@pytest.fixture
def own_port(settings: Settings, deps: Deps) -> Iterator[int]:
    """A service that serves metrics on a port of their own."""
    port = free_port()
    with serving(create_app(settings.model_copy(update={"metrics_port": port}), lambda _: deps)):
        yield port


def test_a_port_of_its_own_needs_none(own_port: int) -> None:
    samples = parse(httpx.get(f"http://{HOST}:{own_port}/metrics").text)
    assert value(samples, "arrowquant_ledger_up") == 1


def test_the_port_is_free_again_afterwards(app: FastAPI, settings: Settings, deps: Deps) -> None:
    changed = settings.model_copy(update={"metrics_port": free_port()})
    for _ in range(2):
        with serving(create_app(changed, lambda _: deps)):
            pass


class Ledger:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.asked, self.away = 0, False

    def read(self) -> Figures:
        self.asked += 1
        if self.away:
            raise ArrowQuantError("database_unavailable", "gone")
        return Figures(leased=7)


def test_many_scrapes_are_one_question() -> None:
    source, now = Ledger(), [100.0]
    collector = LedgerCollector(source, cache_s=5, clock=lambda: now[0])
    for _ in range(10):
        list(collector.collect())
    assert source.asked == 1
    now[0] += 5
    list(collector.collect())
    assert source.asked == 2


def test_without_the_database_the_rest_is_still_told() -> None:
    source = Ledger()
    source.away = True
    [only] = list(LedgerCollector(source).collect())
    assert only.samples[0].value == 0
    assert only.name == "arrowquant_ledger_up"
