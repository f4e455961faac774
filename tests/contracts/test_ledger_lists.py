"""Lists of jobs in any order, page by page, while jobs arrive, start, end and go."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import delete

from service.adapters.sql.tables import jobs
from service.domain.job import JobRecord
from service.domain.ordering import By, parse_order
from service.domain.ports import JobQuery
from service.usecases.jobs import JobFilter, list_jobs
from tests.contracts.ledgers import Bench, worker

ORDERS = (
    None,
    "create_time",
    "create_time desc",
    "name",
    "name desc, create_time",
    "priority desc, create_time",
    "start_time",
    "end_time",
    "end_time desc",
    "priority, end_time desc, name",
)
NEVER = datetime(9999, 1, 1, tzinfo=UTC)


def pages(bench: Bench, order: tuple[By, ...], size: int) -> Iterator[list[str]]:
    token = None
    while True:
        found, token = list_jobs(bench.ledger, bench.clock, "acme", JobFilter(), order, size, token)
        yield [job.id for job in found]
        if token is None:
            return


def sort_plainly(found: list[JobRecord], order: tuple[By, ...]) -> list[str]:
    """One stable sort for each field, the last first."""
    for by in reversed(order):
        values = {
            job.id: getattr(job, by.field) or NEVER for job in found if by.field != "priority"
        }
        values |= {job.id: job.priority for job in found if by.field == "priority"}
        found = sorted(found, key=lambda job: values[job.id], reverse=by.descending)
    return [job.id for job in found]


class Traffic:
    """What happens to jobs, by chance but the same at every run."""

    def __init__(self, bench: Bench, seed: int) -> None:
        self.bench, self.chance = bench, random.Random(seed)
        self.waiting: list[str] = []
        self.ended: list[str] = []
        self.gone: set[str] = set()

    def arrive(self) -> None:
        chance = self.chance
        self.bench.clock.move(chance.choice([0, 1]))
        job = self.bench.submit(name=chance.choice("abcd"), priority=chance.randrange(3))
        self.waiting.append(job.id)

    def start(self) -> None:
        self.bench.clock.move(1)
        if self.waiting:
            self.bench.ledger.claim(worker(), self.chance.choice(self.waiting))

    def end(self) -> None:
        self.bench.clock.move(1)
        if self.waiting:
            job_id = self.waiting.pop(self.chance.randrange(len(self.waiting)))
            self.bench.ledger.cancel_job(job_id)
            while (claim := self.bench.ledger.claim(worker(), job_id)) is not None:
                self.bench.finish(claim)
            self.ended.append(job_id)

    def go(self) -> None:
        if self.ended:
            job_id = self.ended.pop(self.chance.randrange(len(self.ended)))
            self.gone.add(job_id)
            with self.bench.engine.begin() as connection:
                connection.execute(delete(jobs).where(jobs.c.id == job_id))

    def happen(self, times: int) -> None:
        for _ in range(times):
            self.chance.choice([self.arrive, self.start, self.end, self.end, self.go])()


@pytest.mark.parametrize("text", ORDERS)
def test_every_order_is_that_of_a_plain_sort(bench: Bench, text: str | None) -> None:
    traffic, order = Traffic(bench, 1), parse_order(text)
    for _ in range(8):
        traffic.arrive()
    traffic.happen(12)
    found = bench.ledger.list_jobs(JobQuery("acme", limit=1000))
    plain = sort_plainly(found, order)
    assert [i for page in pages(bench, order, 1000) for i in page] == plain
    assert [i for page in pages(bench, order, 3) for i in page] == plain


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("text", ORDERS)
def test_pages_hold_while_jobs_come_and_go(bench: Bench, text: str | None, seed: int) -> None:
    """Nothing comes twice, and nothing that was there all the time is missed."""
    traffic, order = Traffic(bench, seed), parse_order(text)
    for _ in range(10):
        traffic.arrive()
    traffic.happen(6)
    there = {job.id for job in bench.ledger.list_jobs(JobQuery("acme", limit=1000))}
    seen: list[str] = []
    for page in pages(bench, order, 2):
        seen += page
        if len(seen) < 30:
            traffic.happen(2)
    assert len(seen) == len(set(seen))
    assert there - traffic.gone <= set(seen)


def test_a_job_that_ends_while_pages_are_read_stays_where_it_was(bench: Bench) -> None:
    running, ended = bench.submit(), bench.submit()
    bench.ledger.cancel_job(ended.id)
    order = parse_order("end_time")
    bench.clock.move(1)
    first, token = list_jobs(bench.ledger, bench.clock, "acme", JobFilter(), order, 1, None)
    bench.clock.move(1)
    bench.ledger.cancel_job(running.id)
    rest, token = list_jobs(bench.ledger, bench.clock, "acme", JobFilter(), order, 9, token)
    assert ([job.id for job in first], [job.id for job in rest]) == ([ended.id], [running.id])
    assert token is None


@pytest.mark.parametrize(
    "text", ["id", "size", "name up", "name desc asc", "name,,priority", "name, name desc", ","]
)
def test_what_is_no_order_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not one of|named twice"):
        parse_order(text)
