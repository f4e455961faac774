"""Ends that come by themselves, and what is left of a job that was deleted: nothing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Table, func, select

from service.adapters.sql import deletion
from service.adapters.sql.tables import jobs, metadata
from service.domain.errors import ArrowQuantError
from service.domain.job import EventType, JobState, UnitKind
from service.domain.ports import JobQuery
from tests.contracts.ledgers import LEASE_S, Bench, worker

DAY_S = 86400.0


def refused(code: str) -> Any:
    return pytest.raises(ArrowQuantError, match=f"^{code}:")


def succeed(bench: Bench, **changes: Any) -> str:
    job = bench.submit(**changes)
    while (claim := bench.ledger.claim(worker(), job.id)) is not None:
        bench.finish(claim)
    assert bench.ledger.get_job(job.id).state is JobState.SUCCEEDED
    return job.id


def rows_of(bench: Bench, job_id: str) -> dict[str, int]:
    """How many rows each table has of a job."""

    def count(table: Table) -> int:
        column = table.c.id if table is jobs else table.c.job_id
        with bench.engine.connect() as connection:
            query = select(func.count()).select_from(table).where(column == job_id)
            return int(connection.execute(query).scalar() or 0)

    tables = [t for t in metadata.sorted_tables if t is jobs or "job_id" in t.c]
    return {table.name: found for table in tables if (found := count(table))}


def sweep_all(bench: Bench) -> None:
    while bench.ledger.sweep():
        pass


class TestWaitingTooLong:
    def test_a_job_that_nobody_takes_expires(self, bench: Bench) -> None:
        job = bench.submit(max_pending_s=60)
        patient = bench.submit()
        bench.clock.move(59)
        assert bench.ledger.sweep() == 0
        bench.clock.move(2)
        assert bench.ledger.sweep() == 1
        found = bench.ledger.get_job(job.id)
        assert found.state is JobState.EXPIRED
        assert found.end_time == bench.clock.now()
        assert found.error is not None
        assert (found.error["code"], found.error["fault"]) == ("max_pending_exceeded", "limit")
        *_, state, done = bench.history(job.id)
        assert (state.type, state.data["state"]) == (EventType.STATE, "EXPIRED")
        assert state.data["error"]["code"] == "max_pending_exceeded"
        assert done.type is EventType.DONE
        assert {claim.job_id for claim in bench.drain()} == {patient.id}
        assert bench.ledger.retry_job(job.id).state is JobState.QUEUED

    def test_a_job_that_was_taken_does_not(self, bench: Bench) -> None:
        job = bench.submit(max_pending_s=60)
        bench.take(UnitKind.PLAN)
        bench.clock.move(3600)
        assert bench.ledger.sweep() == 0
        assert bench.ledger.get_job(job.id).state is JobState.RUNNING

    def test_a_retry_waits_anew(self, bench: Bench) -> None:
        job = bench.submit(max_pending_s=60, max_runtime_s=10)
        first_queued = bench.ledger.get_job(job.id).queue_time
        bench.take(UnitKind.PLAN)
        bench.clock.move(30)
        assert bench.ledger.sweep() == 1  # it ran too long
        bench.drain()
        bench.clock.move(100)
        again = bench.ledger.retry_job(job.id)
        assert first_queued is not None
        assert again.queue_time is not None
        assert again.queue_time - first_queued == timedelta(seconds=130)
        bench.clock.move(59)
        assert bench.ledger.sweep() == 0
        bench.clock.move(1)
        assert bench.ledger.sweep() == 1
        assert bench.ledger.get_job(job.id).state is JobState.EXPIRED
        # What the first try left half written is still cleaned up.
        assert bench.take_of(job.id).kind is UnitKind.CLEANUP


class TestDeletion:
    def test_a_job_at_work_stays(self, bench: Bench) -> None:
        job = bench.plan()
        with refused("job_active"):
            bench.ledger.delete_job(job.id, "acme", artifacts=True)
        bench.ledger.cancel_job(job.id)
        with refused("job_active"):
            bench.ledger.delete_job(job.id, "acme", artifacts=False)

    @pytest.mark.parametrize("artifacts", [False, True])
    def test_it_is_gone_for_its_tenant_at_once(self, bench: Bench, artifacts: bool) -> None:
        job_id, other = succeed(bench, labels={"a": "b"}), succeed(bench)
        with refused("not_found"):
            bench.ledger.delete_job(job_id, "other", artifacts=artifacts)
        bench.ledger.delete_job(job_id, "acme", artifacts=artifacts)
        for ask in (
            lambda: bench.ledger.get_job(job_id, "acme"),
            lambda: bench.ledger.cancel_job(job_id, "acme"),
            lambda: bench.ledger.retry_job(job_id, "acme"),
            lambda: bench.ledger.delete_job(job_id, "acme", artifacts=artifacts),
        ):
            with refused("not_found"):
                ask()
        assert [job.id for job in bench.ledger.list_jobs(JobQuery("acme"))] == [other]

    def test_its_rows_go_and_no_others(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(deletion, "ROWS_AT_ONCE", 2)
        job_id, other = succeed(bench, labels={"a": "b", "c": "d", "e": "f"}), succeed(bench)
        kept = rows_of(bench, other)
        assert rows_of(bench, job_id).keys() >= {"jobs", "events", "units", "tensors", "pieces"}
        bench.ledger.delete_job(job_id, "acme", artifacts=False)
        sweep_all(bench)
        assert rows_of(bench, job_id) == {}
        assert rows_of(bench, other) == kept
        with refused("not_found"):
            bench.ledger.get_job(job_id)

    def test_rows_stay_until_a_worker_has_removed_the_artifact(self, bench: Bench) -> None:
        job_id = succeed(bench)
        bench.ledger.delete_job(job_id, "acme", artifacts=True)
        sweep_all(bench)
        first = bench.take(UnitKind.CLEANUP)
        assert bench.ledger.get_job(job_id).delete_artifacts
        assert bench.ledger.parts(job_id)
        bench.clock.move(LEASE_S + 1)  # whoever took it has died
        sweep_all(bench)
        second = bench.take(UnitKind.CLEANUP)
        assert second.fence > first.fence
        bench.finish(second)
        sweep_all(bench)
        assert rows_of(bench, job_id) == {}

    def test_what_a_failed_job_left_half_written_is_removed_first(self, bench: Bench) -> None:
        job = bench.submit()
        bench.ledger.fail_job(bench.take_of(job.id), ArrowQuantError("internal", "broken"))
        bench.ledger.delete_job(job.id, "acme", artifacts=False)
        sweep_all(bench)
        bench.finish(bench.take(UnitKind.CLEANUP))
        sweep_all(bench)
        assert rows_of(bench, job.id) == {}


class TestRetention:
    def test_a_job_is_kept_for_as_long_as_it_asked(self, bench: Bench) -> None:
        job_id = succeed(bench, retain_days=2)
        job = bench.ledger.get_job(job_id)
        assert job.end_time is not None
        assert job.expire_time == job.end_time + timedelta(days=2)
        bench.clock.move(2 * DAY_S - 1)
        assert bench.ledger.sweep() == 0
        bench.clock.move(1)
        sweep_all(bench)
        assert rows_of(bench, job_id) == {}
        assert not bench.ledger.has_work()  # the artifact stays

    def test_the_artifact_goes_too_if_asked(self, bench: Bench) -> None:
        job_id = succeed(bench, retain_days=1, retain_artifacts=False)
        bench.clock.move(DAY_S)
        sweep_all(bench)
        with refused("not_found"):
            bench.ledger.get_job(job_id, "acme")
        bench.finish(bench.take(UnitKind.CLEANUP))
        sweep_all(bench)
        assert rows_of(bench, job_id) == {}

    def test_tenants_have_a_default(self, bench: Bench) -> None:
        kept, own = succeed(bench), succeed(bench, tenant="tidy", retain_days=30)
        default = succeed(bench, tenant="tidy")
        bench.clock.move(7 * DAY_S + 1)
        sweep_all(bench)
        assert rows_of(bench, default) == {}
        assert rows_of(bench, kept)
        assert rows_of(bench, own)

    def test_a_retry_is_kept_from_its_own_end(self, bench: Bench) -> None:
        job = bench.submit(retain_days=1)
        bench.ledger.cancel_job(job.id)
        assert bench.ledger.get_job(job.id).expire_time is not None
        bench.clock.move(DAY_S - 1)
        assert bench.ledger.retry_job(job.id).expire_time is None
        bench.clock.move(DAY_S)
        sweep_all(bench)
        assert bench.ledger.get_job(job.id).state is JobState.QUEUED
