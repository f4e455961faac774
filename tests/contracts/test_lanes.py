"""Whose turn it is, held against the plain meaning of it, and found without reading the whole queue."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from alembic import command
from alembic.config import Config
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete, event, select, text

from service.adapters.sql import SqlLedger
from service.adapters.sql.engine import MIGRATIONS, Database
from service.adapters.sql.lanes import AGING
from service.adapters.sql.tables import UnitState, jobs, units
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, UnitKind
from service.domain.quotas import Quota
from tests.contracts.batches import BatchBench
from tests.contracts.ledgers import LEASE_S, Bench, worker

RUNNING = 2
FAILURE = ArrowQuantError("storage_unavailable", "the store did not answer")

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from("ab:"), st.integers(0, 2)),
        st.tuples(st.just("claim"), st.sampled_from(["hold", "later", "again", "finish", "fail"])),
        st.tuples(st.just("wait"), st.sampled_from([1, LEASE_S, AGING.total_seconds() / 2])),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("retry"), st.integers(0, 9)),
    ),
    min_size=5,
    max_size=30,
)


def turn(engine: Engine, now: Any) -> str | None:
    """The job whose turn it is, by sorting all of them."""
    query = select(
        *(units.c[name] for name in ("kind", "state", "not_before", "lease_expires")),
        *(jobs.c[name] for name in ("id", "tenant", "priority", "create_time", "queue_time")),
        jobs.c.state.label("job_state"),
    ).join(jobs, jobs.c.id == units.c.job_id)
    with engine.begin() as connection:
        rows = connection.execute(query).all()
        states = connection.execute(select(jobs.c.tenant, jobs.c.state)).all()
    leased = [row for row in rows if row.state == UnitState.LEASED]
    under_way = Counter(row.tenant for row in leased if row.lease_expires > now)
    running = Counter(row.tenant for row in states if row.state == JobState.RUNNING)
    free = [
        row
        for row in rows
        if row.state == UnitState.FREE and (row.not_before is None or row.not_before <= now)
    ]
    lost = [row for row in leased if row.lease_expires <= now]
    able = [
        row
        for row in free + lost
        if not (row.job_state == JobState.QUEUED and running[row.tenant] >= RUNNING)
    ]
    if not able:
        return None

    def order(row: Any) -> tuple[Any, ...]:
        urgency = min(row.priority + (now - row.queue_time) // AGING, 2)
        cleanup = row.kind == UnitKind.CLEANUP
        return not cleanup, -urgency, under_way[row.tenant], row.create_time, row.id

    return str(min(able, key=order).id)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(STEPS)
def test_it_is_as_if_all_were_sorted(bench: Bench, steps: list[tuple[Any, ...]]) -> None:
    with bench.engine.begin() as connection:
        connection.execute(delete(jobs))
    quota = Quota(running_jobs=RUNNING)
    bench.ledger = SqlLedger(bench.engine, bench.clock, LEASE_S, 1000, quota=quota)
    made: list[str] = []
    for step in steps:
        match step:
            case ("submit", tenant, priority):
                made.append(bench.submit(tenant, priority).id)
            case ("wait", seconds):
                bench.clock.move(seconds)
            case ("claim", then):
                claim_next(bench, then)
            case (verb, number) if made:
                change = bench.ledger.cancel_job if verb == "cancel" else bench.ledger.retry_job
                with refusable():
                    change(made[number % len(made)])
    while claim_next(bench, "hold"):
        pass


def claim_next(bench: Bench, then: str) -> bool:
    """Take what the twin would; whether there was anything."""
    expected = turn(bench.engine, bench.clock.now())
    assert bench.ledger.has_work() == (expected is not None)
    claim = bench.ledger.claim(worker())
    assert (claim.job_id if claim else None) == expected
    if claim is not None:
        match then:
            case "later":
                bench.ledger.release(claim, 60, FAILURE)
            case "again":
                bench.ledger.release(claim, 0)
            case "finish":
                bench.finish(claim)
            case "fail":
                bench.ledger.fail_job(claim, FAILURE)
    return claim is not None


@contextmanager
def refusable() -> Iterator[None]:
    try:
        yield
    except ArrowQuantError as error:
        if error.code not in ("job_terminal", "job_active"):
            raise


def test_a_claim_does_not_read_the_queue(engine: Engine, bench: Bench) -> None:
    """However many wait: also just after they came, when the database has no idea how many."""
    batches = BatchBench(engine, bench.clock)
    read = statements_read if engine.dialect.name == "sqlite" else rows_read
    batches.accept(20, "a")
    batches.accept(20, "b")
    few = read(engine, lambda: bench.take())
    for tenant in "ab":
        batches.accept(2_500, tenant)
    many = read(engine, lambda: bench.take())
    assert many <= 2 * few + 100
    if engine.dialect.name == "postgresql":  # SQLite counts only when it is told to: nobody does
        with engine.begin() as connection:
            connection.execute(text("ANALYZE"))
        assert read(engine, lambda: bench.take()) <= 2 * few + 100
    full = SqlLedger(engine, bench.clock, quota=Quota(running_jobs=1))
    assert read(engine, lambda: full.has_work()) <= 2 * few + 100


def statements_read(engine: Engine, do: Callable[[], object]) -> int:
    """Instructions that SQLite's machine took, in tens."""
    count = 0

    def tick() -> int:
        nonlocal count
        count += 1
        return 0

    def watch(connection: Any, *_: object) -> None:
        connection.connection.driver_connection.set_progress_handler(tick, 10)

    event.listen(engine, "before_cursor_execute", watch)
    try:
        do()
    finally:
        event.remove(engine, "before_cursor_execute", watch)
    return count


def rows_read(engine: Engine, do: Callable[[], object]) -> int:
    """Rows that PostgreSQL looked at for the queries of a call."""
    queries: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, values: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "WITH")):
            queries.append((statement, values))

    event.listen(engine, "before_cursor_execute", note)
    try:
        do()
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert queries
    with engine.begin() as connection:
        plans = [
            connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", values)
            for statement, values in queries
        ]
        return sum(_looked_at(plan.scalar_one()[0]["Plan"]) for plan in plans)


def _looked_at(node: dict[str, Any]) -> int:
    rows = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
    below = sum(_looked_at(child) for child in node.get("Plans", ()))
    return int(rows * node["Actual Loops"]) + below


def test_lanes_of_jobs_that_were_there_before(bench: Bench, engine: Engine) -> None:
    """The migration finds for every unit what the ledger would have written."""
    bench.submit()
    begun = bench.plan(priority=2, tenant="a:b")
    bench.take_of(begun.id)
    for job in (bench.plan(), bench.submit(priority=1)):
        bench.ledger.cancel_job(job.id)
        bench.clock.move(60)
    bench.drain()
    bench.ledger.retry_job(job.id)
    bench.submit(tenant="late")
    query = select(units).order_by(units.c.job_id, units.c.kind, units.c.seq)
    with engine.begin() as connection:
        before = connection.execute(query).mappings().all()
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    engine.dispose()
    with Database(engine).write() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0015")
        command.upgrade(config, "head")
    engine.dispose()
    with engine.begin() as connection:
        assert connection.execute(query).mappings().all() == before
