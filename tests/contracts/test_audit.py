"""The audit log in both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Engine

from service.adapters.sql.audit import SqlAuditLog
from service.domain.audit import AuditEvent, AuditQuery
from service.domain.ids import new_id
from tests.contracts.ledgers import HandClock


def note(log: SqlAuditLog, clock: HandClock, **changes: Any) -> AuditEvent:
    clock.move(1)
    values: dict[str, Any] = {
        "id": new_id("audit", int(clock.now().timestamp() * 1000)),
        "tenant": "acme",
        "time": clock.now(),
        "subject": "key:k",
        "action": "create_job",
        "resource": "/v1/jobs/job_1",
        "status": 202,
        "code": None,
        "request_id": "req_1",
        "address": "10.0.0.1",
    }
    event = AuditEvent(**(values | changes))
    log.write(event)
    return event


def test_lines_are_found_by_what_they_say(engine: Engine, clock: HandClock) -> None:
    log = SqlAuditLog(engine, clock, None)
    first = note(log, clock)
    other = note(log, clock, tenant="rival")
    second = note(log, clock, action="cancel_job", status=409, code="job_terminal")
    third = note(log, clock, subject="oidc:ann", resource="/v1/jobs/job_2")
    assert log.list(AuditQuery("acme")) == [third, second, first]
    assert log.list(AuditQuery("rival")) == [other]
    assert log.list(AuditQuery("acme", action="cancel_job")) == [second]
    assert log.list(AuditQuery("acme", resource="/v1/jobs/job_2")) == [third]
    assert log.list(AuditQuery("acme", subject="oidc:ann")) == [third]
    assert log.list(AuditQuery("acme", after_time=first.time)) == [third, second]
    assert log.list(AuditQuery("acme", before_time=third.time)) == [second, first]
    assert log.list(AuditQuery("acme", before=third.id, limit=1)) == [second]


def test_lines_are_kept_as_long_as_was_said(engine: Engine, clock: HandClock) -> None:
    log = SqlAuditLog(engine, clock, timedelta(days=30))
    first = note(log, clock)
    clock.move(30 * 86400 - 10)
    second = note(log, clock)
    assert log.list(AuditQuery("acme")) == [second, first]
    clock.move(20)
    assert log.list(AuditQuery("acme")) == [second]
    clock.move(3600)
    third = note(log, clock)
    # They are gone, not only hidden.
    assert SqlAuditLog(engine, clock, None).list(AuditQuery("acme")) == [third, second]
