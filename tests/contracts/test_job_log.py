"""Logs of jobs, on both databases."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

from service.adapters.sql.job_log import SqlJobLog
from service.adapters.sql.log_tables import log_lines
from service.adapters.sql.tables import jobs
from service.domain.errors import ArrowQuantError
from service.domain.job_log import MAX_LINE_BYTES, LogLine, LogQuery
from service.usecases import job_log
from tests.contracts.ledgers import Bench

TIME = datetime(2030, 1, 1, tzinfo=UTC)


def line(event: str = "said", level: str = "info", **fields: Any) -> LogLine:
    return LogLine(0, TIME, level, event, **fields)


@pytest.fixture
def log(engine: Engine) -> SqlJobLog:
    return SqlJobLog(engine, max_lines=20)


@pytest.fixture
def job_id(bench: Bench) -> str:
    return bench.submit(tenant="acme").id


def read(log: SqlJobLog, job_id: str, **changes: Any) -> list[LogLine]:
    return log.read(LogQuery(job_id, "acme", **changes)).lines


def test_lines_come_back_as_they_were_said(log: SqlJobLog, job_id: str) -> None:
    said = [
        line("one", unit="plan:0", trace_id="ab" * 16, data={"n": 1, "x": [1.5, None, "ü"]}),
        line("two", "warning", tensor='blocks.0."odd" \U0001f600', data={}),
    ]
    log.append(job_id, said)
    found = read(log, job_id)
    assert [entry.seq for entry in found] == [1, 2]
    assert [(e.event, e.level, e.unit, e.tensor, e.trace_id, e.data, e.time) for e in found] == [
        (e.event, e.level, e.unit, e.tensor, e.trace_id, e.data, e.time) for e in said
    ]


def test_paging_levels_and_tensors(log: SqlJobLog, job_id: str) -> None:
    levels = ("debug", "info", "warning", "error")
    log.append(
        job_id, [line(level=level, tensor=f"t{i % 2}") for i, level in enumerate(levels * 2)]
    )
    assert [e.seq for e in read(log, job_id, limit=3)] == [1, 2, 3]
    assert [e.seq for e in read(log, job_id, after=3, limit=3)] == [4, 5, 6]
    assert [e.seq for e in read(log, job_id, level="warning")] == [3, 4, 7, 8]
    assert [e.seq for e in read(log, job_id, level="warning", tensor="t1")] == [4, 8]
    assert read(log, job_id, tensor="nobody") == []


def test_the_oldest_go_with_a_mark(log: SqlJobLog, job_id: str, engine: Engine) -> None:
    for number in range(50):
        log.append(job_id, [line(str(number))])
    with engine.connect() as connection:
        kept = connection.execute(select(log_lines.c.seq)).scalars().all()
    assert 20 <= len(kept) <= 22
    [mark, first, *_] = job_log.page(log, LogQuery(job_id, "acme"))
    assert mark.event == job_log.TRUNCATED
    assert mark.data == {"dropped": first.seq - 1}
    assert mark.seq == first.seq - 1
    assert read(log, job_id)[-1].event == "49"
    # Who has read so far already is told of nothing.
    assert job_log.page(log, LogQuery(job_id, "acme", after=first.seq))[0].seq == first.seq + 1


def test_a_long_line_is_cut_and_keeps_its_place(log: SqlJobLog, job_id: str) -> None:
    name = "\u0001" * 3000
    log.append(job_id, [line("e" * 9000, tensor=name, unit="quantize:1", data={"x": "y" * 99_999})])
    [found] = read(log, job_id)
    assert found.event.startswith("eee")
    assert found.unit == "quantize:1"
    assert found.data["cut"] is True
    assert len(repr(found.data)) + len(found.event) < MAX_LINE_BYTES
    # The whole name finds it all the same.
    assert [e.seq for e in read(log, job_id, tensor=name)] == [found.seq]


def test_another_tenants_log_is_not_there(log: SqlJobLog, job_id: str) -> None:
    log.append(job_id, [line()])
    with pytest.raises(ArrowQuantError) as caught:
        log.read(LogQuery(job_id, "other"))
    assert caught.value.code == "not_found"
    with pytest.raises(ArrowQuantError):
        log.read(LogQuery("job_none", "acme"))


def test_a_job_takes_its_lines_with_it(log: SqlJobLog, job_id: str, engine: Engine) -> None:
    log.append(job_id, [line()])
    with engine.begin() as connection:
        connection.execute(jobs.delete().where(jobs.c.id == job_id))
    log.append(job_id, [line()])  # a worker that has not noticed
    with engine.connect() as connection:
        assert connection.execute(select(log_lines)).all() == []


def test_writers_at_once_leave_no_gap(engine: Engine, job_id: str) -> None:
    log = SqlJobLog(engine)

    def write() -> None:
        for _ in range(10):
            log.append(job_id, [line(), line()])

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [e.seq for e in read(log, job_id, limit=1000)] == list(range(1, 81))


def test_all_pages(log: SqlJobLog, job_id: str) -> None:
    log.append(job_id, [line(str(i)) for i in range(17)])
    pages = list(job_log.lines(log, LogQuery(job_id, "acme", limit=5)))
    assert [e.event for page in pages for e in page] == [str(i) for i in range(17)]
