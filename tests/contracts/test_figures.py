"""The ledger's figures, on both databases."""

from __future__ import annotations

import pytest
from sqlalchemy import Engine

from service.adapters.sql.figures import SqlFigures
from service.domain.errors import ArrowQuantError
from service.domain.figures import Figures
from service.domain.job import UnitKind
from tests.contracts.ledgers import LEASE_S, Bench, HandClock, unit


@pytest.fixture
def figures(engine: Engine, clock: HandClock) -> SqlFigures:
    return SqlFigures(engine, clock, LEASE_S)


def test_an_empty_ledger_is_all_zero(figures: SqlFigures) -> None:
    assert figures.read() == Figures()


def test_the_queue_by_priority(bench: Bench, figures: SqlFigures) -> None:
    bench.submit(priority=1)
    bench.clock.move(10)
    bench.submit(priority=1)
    bench.submit(priority=2)
    bench.clock.move(5)
    read = figures.read()
    assert read.jobs == {"QUEUED": 3}
    assert read.queued == {1: 2, 2: 1}
    assert read.claimable == {1: 2, 2: 1}
    assert read.oldest_queued_s[1] == pytest.approx(15, abs=0.1)
    assert read.oldest_queued_s[2] == pytest.approx(5, abs=0.1)


def test_leases_their_age_and_their_end(bench: Bench, figures: SqlFigures) -> None:
    bench.plan([unit(0), unit(1), unit(2)])
    claim = bench.take(UnitKind.QUANTIZE)
    bench.ledger.heartbeat(claim, 40, rss_bytes=123_456)
    bench.clock.move(4)
    read = figures.read()
    assert (read.leased, read.overdue, read.rss_max_bytes) == (1, 0, 123_456)
    assert read.lease_age_s == pytest.approx(4)
    assert sum(read.claimable.values()) == 2
    bench.clock.move(LEASE_S)
    read = figures.read()
    assert (read.leased, read.overdue) == (1, 1)
    assert read.lease_age_s == pytest.approx(4 + LEASE_S)
    assert sum(read.claimable.values()) == 3


def test_a_unit_that_waits_for_its_next_try(bench: Bench, figures: SqlFigures) -> None:
    bench.plan([unit(0)])
    claim = bench.take(UnitKind.QUANTIZE)
    bench.ledger.release(claim, 30, ArrowQuantError("storage_unavailable", "away"))
    read = figures.read()
    assert (read.delayed, read.leased, read.claimable) == (1, 0, {})
    bench.clock.move(31)
    assert figures.read().delayed == 0


def test_failures_by_code_and_rates_of_what_runs(bench: Bench, figures: SqlFigures) -> None:
    failed = bench.submit()
    bench.ledger.fail_job(bench.take_of(failed.id), ArrowQuantError("source_not_found", "gone"))
    bench.drain()  # the clean-up
    bench.plan([unit(0, source_bytes=400), unit(1, source_bytes=400)])
    claim = bench.take(UnitKind.QUANTIZE)
    bench.clock.move(2)
    bench.ledger.heartbeat(claim, 300)
    read = figures.read()
    assert read.jobs == {"FAILED": 1, "RUNNING": 1}
    assert read.failed == {"source_not_found": 1}
    assert read.bytes_per_s == pytest.approx(150)
    assert read.tensors_per_s == 0
