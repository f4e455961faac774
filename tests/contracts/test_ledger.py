"""A job's life as its owner sees it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from service.adapters.sql import SqlLedger, make_engine
from service.adapters.system_clock import SystemClock
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import EventType, JobState, Phase, TensorState, UnitKind
from service.domain.ports import JobQuery
from tests.contracts.ledgers import RESOLVED, Bench, part, tensor, unit, worker
from tests.processes import free_port


def refused(code: str) -> Any:
    return pytest.raises(ArrowQuantError, match=f"^{code}:")


def ids(bench: Bench, **query: Any) -> list[str]:
    return [job.id for job in bench.ledger.list_jobs(JobQuery(**({"tenant": "acme"} | query)))]


def test_a_new_job_is_stored_whole_and_queued(bench: Bench) -> None:
    job = bench.submit(name="dream", labels={"team/x.y": "z"}, priority=7, max_runtime_s=60)
    assert job == bench.ledger.get_job(job.id)
    assert (job.state, job.phase, job.attempt, job.event_seq) == (JobState.QUEUED, None, 1, 1)
    assert (job.name, job.labels, job.priority) == ("dream", {"team/x.y": "z"}, 7)
    assert job.create_time == bench.clock.now()
    assert job.create_time.utcoffset() == timedelta(0)
    assert job.progress.percent == 0.0
    (event,) = bench.history(job.id)
    assert (event.type, event.data["state"]) == (EventType.STATE, "QUEUED")


def test_a_whole_life(bench: Bench) -> None:
    job = bench.plan([unit(0), unit(1, 1, source_bytes=300)])
    assert bench.ledger.get_job(job.id).phase is Phase.QUANTIZING
    bench.finish(bench.take(UnitKind.QUANTIZE))
    half = bench.ledger.get_job(job.id)
    assert half.resolved == RESOLVED
    assert (half.progress.bytes_done, half.progress.bytes_total) == (100, 400)
    assert (half.progress.bytes_written, half.progress.units_done) == (30, 1)
    last = bench.take(UnitKind.QUANTIZE)
    bench.ledger.tensors_done(last, [tensor(0, TensorState.DONE), tensor(1, TensorState.KEPT)])
    bench.finish(last)
    publish = bench.take(UnitKind.PUBLISH)
    assert bench.ledger.get_job(job.id).phase is Phase.VERIFYING
    bench.ledger.set_phase(publish, Phase.PUBLISHING)
    bench.finish(publish)
    done = bench.ledger.get_job(job.id)
    assert (done.state, done.phase, done.summary) == (JobState.SUCCEEDED, None, {"parts": 2})
    assert (done.start_time, done.end_time) == (bench.clock.now(), bench.clock.now())
    assert done.progress.percent == 99.9  # only the web layer says 100, for SUCCEEDED
    assert (done.progress.tensors_done, done.progress.tensors_kept) == (2, 1)
    assert bench.ledger.parts(job.id) == [part(0), part(1)]
    assert not bench.ledger.has_work()
    assert [
        event.data.get("phase") or event.data.get("state") or event.type
        for event in bench.history(job.id)
        if event.type not in (EventType.PROGRESS, EventType.TENSOR)
    ] == [
        "QUEUED", "PLANNING", "QUANTIZING", "VERIFYING", "PUBLISHING",
        EventType.ARTIFACT, "SUCCEEDED", "SUCCEEDED",
    ]  # fmt: skip
    assert bench.history(job.id)[-1].type is EventType.DONE


def test_finishing_twice_is_finishing_once(bench: Bench) -> None:
    """An answer may get lost on its way; the worker asks again."""
    job = bench.submit()
    for _ in range(4):
        claim = bench.take()
        bench.finish(claim)
        before = bench.ledger.get_job(job.id)
        bench.finish(claim)
        assert bench.ledger.get_job(job.id) == before
    assert before.state is JobState.SUCCEEDED


def test_other_tenants_see_nothing(bench: Bench) -> None:
    job = bench.submit()
    assert bench.ledger.get_job(job.id, "acme").id == job.id
    for verb in (bench.ledger.get_job, bench.ledger.cancel_job, bench.ledger.retry_job):
        with refused("not_found"):
            verb(job.id, "other")
        with refused("not_found"):
            verb("job_unknown")
    assert ids(bench, tenant="other") == []


def test_lists_are_newest_first_and_filtered(bench: Bench) -> None:
    first = bench.submit(name="a", labels={"team": "x", "stage": "1"})
    middle = bench.submit(name="b", labels={"team": "x"})
    last = bench.submit(name="a", labels={"team": "y"})
    bench.submit(tenant="other", labels={"team": "x"})
    bench.ledger.cancel_job(middle.id)
    assert ids(bench) == [last.id, middle.id, first.id]
    assert ids(bench, limit=2) == [last.id, middle.id]
    assert ids(bench, states=(JobState.CANCELLED,)) == [middle.id]
    assert ids(bench, name="a") == [last.id, first.id]
    assert ids(bench, labels=(("team", "x"),)) == [middle.id, first.id]
    assert ids(bench, labels=(("team", "z"),)) == []
    assert ids(bench, labels=(("team", "x"), ("stage", "1"))) == [first.id]
    assert ids(bench, labels=(("team", "y"), ("stage", "1"))) == []
    assert ids(bench, created_after=first.create_time) == [last.id, middle.id]
    assert ids(bench, created_before=last.create_time) == [middle.id, first.id]
    in_a_batch = [bench.submit(batch_id="batch_1").id for _ in range(2)]
    assert ids(bench, batch_id="batch_1") == in_a_batch[::-1]
    assert ids(bench, batch_id="batch_2") == []


def test_events_are_read_in_pages(bench: Bench) -> None:
    job, other = bench.plan(), bench.submit()
    events = bench.history(job.id)
    assert bench.ledger.events(job.id, 1, 1) == events[1:2]
    assert bench.ledger.events(job.id, len(events), 10) == []
    heads = bench.ledger.event_heads([job.id, other.id, "job_unknown"])
    assert heads == {job.id: len(events), other.id: 1}
    assert bench.ledger.event_heads([]) == {}


def test_cancel_before_anyone_began(bench: Bench) -> None:
    job = bench.submit()
    cancelled = bench.ledger.cancel_job(job.id, "acme")
    assert (cancelled.state, cancelled.end_time) == (JobState.CANCELLED, bench.clock.now())
    assert not bench.ledger.has_work()
    assert bench.ledger.cancel_job(job.id) == cancelled
    assert [e.type for e in bench.history(job.id)] == ["state", "state", "done"]


def test_cancel_ends_leases_and_has_the_uploads_cleaned_up(bench: Bench) -> None:
    job = bench.plan()
    claim = bench.take(UnitKind.QUANTIZE)
    assert bench.ledger.cancel_job(job.id).state is JobState.CANCELLING
    assert bench.ledger.cancel_job(job.id).state is JobState.CANCELLING
    with pytest.raises(LeaseLost):
        bench.ledger.heartbeat(claim)
    with refused("job_active"):
        bench.ledger.retry_job(job.id)
    cleanup = bench.take(UnitKind.CLEANUP)
    bench.ledger.heartbeat(cleanup)
    assert bench.ledger.claim(worker()) is None
    bench.ledger.cleanup_done(cleanup)
    bench.ledger.cleanup_done(cleanup)
    assert bench.ledger.get_job(job.id).state is JobState.CANCELLED


def test_an_ended_job_cannot_be_cancelled(bench: Bench) -> None:
    done, failed = bench.submit(), bench.submit()
    bench.ledger.fail_job(bench.take_of(failed.id), ArrowQuantError("internal", "broken"))
    bench.drain()
    for job in (done, failed):
        with refused("job_terminal"):
            bench.ledger.cancel_job(job.id)
    with refused("job_terminal"):
        bench.ledger.retry_job(done.id)


def test_failure_is_told_and_cleaned_up_after(bench: Bench) -> None:
    job = bench.plan()
    mine, other = bench.take(), bench.take()
    bench.ledger.fail_job(mine, ArrowQuantError("no_space", "full", "Make room.", {"unit": 0}))
    failed = bench.ledger.get_job(job.id)
    assert (failed.state, failed.end_time) == (JobState.FAILED, bench.clock.now())
    assert failed.error is not None
    assert (failed.error["code"], failed.error["hint"]) == ("no_space", "Make room.")
    assert failed.error["where"] == {"unit": 0, "phase": "QUANTIZING"}
    for claim in (mine, other):
        with pytest.raises(LeaseLost):
            bench.ledger.unit_done(claim, part(claim.seq), {})
    assert [claim.kind for claim in bench.drain()] == [UnitKind.CLEANUP]
    assert bench.ledger.get_job(job.id) == failed


@pytest.mark.parametrize("end", ["fail", "cancel"])
def test_retry_goes_on_where_the_job_ended(bench: Bench, end: str) -> None:
    job = bench.plan([unit(0), unit(1), unit(2)])
    bench.finish(bench.take())
    claim = bench.take()
    bench.ledger.heartbeat(claim, 70)
    if end == "fail":
        bench.ledger.fail_job(claim, ArrowQuantError("internal", "broken"))
    else:
        bench.ledger.cancel_job(job.id)
        bench.finish(bench.take(UnitKind.CLEANUP))
    again = bench.ledger.retry_job(job.id)
    assert (again.state, again.attempt, again.error) == (JobState.QUEUED, 2, None)
    assert (again.start_time, again.end_time, again.phase) == (None, None, None)
    assert again.progress.bytes_done == 100
    with refused("job_active"):
        bench.ledger.retry_job(job.id)
    replan = bench.take(UnitKind.PLAN)
    assert bench.ledger.claim(worker()) is None  # not before the plan is known to be the same
    bench.plan_done(replan, [unit(0), unit(1), unit(2)])
    assert [(c.kind, c.seq) for c in bench.drain()] == [
        (UnitKind.QUANTIZE, 1), (UnitKind.QUANTIZE, 2), (UnitKind.PUBLISH, 0),
    ]  # fmt: skip
    assert bench.ledger.get_job(job.id).state is JobState.SUCCEEDED
    with pytest.raises(LeaseLost):
        bench.ledger.heartbeat(claim)


def test_retry_with_everything_done_publishes_at_once(bench: Bench) -> None:
    job = bench.plan()
    for _ in range(2):
        bench.finish(bench.take(UnitKind.QUANTIZE))
    bench.ledger.fail_job(bench.take(UnitKind.PUBLISH), ArrowQuantError("internal", "broken"))
    bench.ledger.retry_job(job.id)
    bench.finish(bench.take(UnitKind.PLAN))
    bench.finish(bench.take(UnitKind.PUBLISH))
    assert bench.ledger.get_job(job.id).state is JobState.SUCCEEDED


def test_a_retried_job_cancelled_before_it_began_is_still_cleaned_up(bench: Bench) -> None:
    job = bench.plan()
    bench.ledger.fail_job(bench.take(), ArrowQuantError("internal", "broken"))
    bench.ledger.retry_job(job.id)
    assert bench.ledger.cancel_job(job.id).state is JobState.CANCELLED
    bench.finish(bench.take(UnitKind.CLEANUP))
    assert bench.ledger.get_job(job.id).state is JobState.CANCELLED


@pytest.mark.parametrize("change", ["objects", "bytes", "tensors", "count"])
def test_a_changed_source_is_refused(bench: Bench, change: str) -> None:
    job = bench.plan([unit(0), unit(1)])
    bench.ledger.fail_job(bench.take(), ArrowQuantError("internal", "broken"))
    bench.ledger.retry_job(job.id)
    claim = bench.take(UnitKind.PLAN)
    units = {
        "objects": [unit(0), unit(1)],
        "bytes": [unit(0), unit(1, source_bytes=101)],
        "tensors": [unit(0), unit(1, 0, 1)],
        "count": [unit(0)],
    }[change]
    resolved = RESOLVED | {"objects": []} if change == "objects" else RESOLVED
    with refused("source_changed"):
        bench.ledger.plan_done(claim, resolved, [tensor(0), tensor(1)], units)
    assert bench.ledger.get_job(job.id).phase is Phase.PLANNING
    bench.ledger.fail_job(claim, ArrowQuantError("source_changed", "changed"))


def test_a_retry_under_another_version_makes_everything_again(bench: Bench) -> None:
    """And says so. What the former version planned, measured and finished is gone."""
    old = {"engine": {"numba": "1", "numpy": "2"}}
    job = bench.submit()
    plan = bench.take_of(job.id)
    units = [unit(0), unit(1), unit(2)]
    bench.ledger.plan_done(plan, RESOLVED | old, [tensor(i) for i in range(3)], units)
    for _ in range(2):
        bench.finish(bench.take(UnitKind.QUANTIZE))
    late = bench.take(UnitKind.QUANTIZE)
    bench.ledger.cancel_job(job.id)
    bench.finish(bench.take(UnitKind.CLEANUP))
    bench.ledger.retry_job(job.id)

    new = {"engine": {"numba": "1", "numpy": "3"}}
    again = bench.take(UnitKind.PLAN)
    bench.ledger.plan_done(again, RESOLVED | new, [tensor(0), tensor(1)], [unit(0), unit(1)])
    planned = bench.ledger.get_job(job.id)
    assert planned.resolved["engine"] == new["engine"]
    assert (planned.progress.units_total, planned.progress.units_done) == (2, 0)
    assert (planned.progress.bytes_done, planned.progress.tensors_total) == (0, 2)
    [warning] = planned.warnings
    assert warning["code"] == "engine_changed"
    assert "numpy 2 is now 3" in warning["message"]
    assert bench.ledger.parts(job.id) == []
    with pytest.raises(LeaseLost):
        bench.ledger.unit_done(late, part(late.seq), late.todo[0])
    fences = [bench.take(UnitKind.QUANTIZE).fence for _ in range(2)]
    assert min(fences) > late.fence


def test_a_plan_brings_warnings_and_may_have_no_units(bench: Bench) -> None:
    job = bench.submit()
    warning = {"code": "size_limit", "message": "large"}
    bench.ledger.plan_done(bench.take(), RESOLVED, [], [], [warning])
    assert bench.ledger.get_job(job.id).warnings == [warning]
    assert [e.data for e in bench.history(job.id) if e.type is EventType.WARNING] == [warning]
    assert bench.take().kind is UnitKind.PUBLISH


def test_tensors_are_listed_and_finished(bench: Bench) -> None:
    job = bench.plan([unit(0, 0, 1, 2)])
    claim = bench.take()
    metrics: dict[str, float | None] = {"relmse": 0.0, "sqnr_db": float("inf"), "cosine": None}
    rows = [tensor(1, TensorState.DONE, metrics=metrics), tensor(2, TensorState.TIED, tied_to="x")]
    for _ in range(2):  # a unit done again says nothing new
        bench.ledger.tensors_done(claim, rows)
    found = bench.ledger.tensors(job.id)
    assert found[0] == tensor(0)
    assert found[1].metrics == {"relmse": 0.0, "sqnr_db": None, "cosine": None}
    assert found[2] == rows[1]
    assert bench.ledger.tensors(job.id, after=0, limit=1) == [found[1]]
    assert bench.ledger.tensors(job.id, state="PENDING") == [found[0]]
    names = [e.data["name"] for e in bench.history(job.id) if e.type is EventType.TENSOR]
    assert names == [rows[0].name, rows[1].name]
    progress = bench.ledger.get_job(job.id).progress
    assert (progress.tensors_total, progress.tensors_done) == (3, 2)


def test_a_bad_part_is_made_again_before_publishing(bench: Bench) -> None:
    job = bench.plan([unit(0), unit(1), unit(2)])
    for _ in range(3):
        bench.finish(bench.take())
    publish = bench.take(UnitKind.PUBLISH)
    bench.ledger.reopen_unit(publish, 0, "missing")
    bench.ledger.reopen_unit(publish, 2, "its digest differs")
    assert bench.ledger.get_job(job.id).phase is Phase.QUANTIZING
    assert bench.ledger.parts(job.id) == [part(1)]
    with pytest.raises(LeaseLost):
        bench.ledger.publish_done(publish, {})
    kinds = [(claim.kind.value, claim.seq) for claim in bench.drain()]
    assert kinds == [("quantize", 0), ("quantize", 2), ("publish", 0)]


def test_a_publisher_of_a_former_life_reopens_nothing(bench: Bench) -> None:
    job = bench.plan()
    bench.finish(bench.take())
    bench.finish(bench.take())
    publish = bench.take(UnitKind.PUBLISH)
    bench.ledger.cancel_job(job.id)
    bench.finish(bench.take(UnitKind.CLEANUP))
    bench.ledger.retry_job(job.id)
    bench.take(UnitKind.PLAN)
    with pytest.raises(LeaseLost):
        bench.ledger.reopen_unit(publish, 0, "missing")
    assert len(bench.ledger.parts(job.id)) == 2


def test_a_job_past_its_time_fails(bench: Bench) -> None:
    slow, fine = bench.submit(max_runtime_s=60), bench.submit()
    bench.clock.move(3600)  # waiting does not count
    assert bench.ledger.sweep() == 0
    bench.take_of(slow.id)
    bench.clock.move(59)
    assert bench.ledger.sweep() == 0
    bench.clock.move(1)
    assert bench.ledger.sweep() == 1
    failed = bench.ledger.get_job(slow.id)
    assert failed.state is JobState.FAILED
    assert failed.error is not None
    assert failed.error["code"] == "max_runtime_exceeded"
    assert bench.ledger.get_job(fine.id).state is JobState.QUEUED


def test_check_answers(bench: Bench) -> None:
    bench.ledger.check()


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_a_database_out_of_reach_is_named(tmp_path: Path, kind: str) -> None:
    nowhere = {
        "sqlite": f"sqlite:///{tmp_path}",
        "postgres": f"postgresql+psycopg://someone:secret@127.0.0.1:{free_port()}/x",
    }[kind]
    engine = make_engine(nowhere)
    with refused("database_unavailable") as caught:
        SqlLedger(engine, SystemClock()).check()
    assert "secret" not in str(caught.value)
    engine.dispose()
