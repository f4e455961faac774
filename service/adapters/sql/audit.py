"""The audit log in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from datetime import datetime, timedelta

from sqlalchemy import Engine, delete, insert, select

from service.adapters.sql.access_tables import audit_events
from service.adapters.sql.engine import Database
from service.domain.audit import AuditEvent, AuditQuery
from service.domain.ports import Clock

FORGET_EVERY = timedelta(hours=1)


class SqlAuditLog:
    """`AuditLog`. What is older than it may be goes while something new is written."""

    def __init__(self, engine: Engine, clock: Clock, keep: timedelta | None) -> None:
        """keep: None for ever."""
        self._db, self._clock, self._keep = Database(engine), clock, keep
        self._forgotten: datetime | None = None

    def write(self, event: AuditEvent) -> None:
        now = self._clock.now()
        with self._db.write() as connection:
            connection.execute(insert(audit_events).values(asdict(event)))
            if self._keep is None:
                return
            if self._forgotten is None or now - self._forgotten >= FORGET_EVERY:
                connection.execute(
                    delete(audit_events).where(audit_events.c.time < now - self._keep)
                )
                self._forgotten = now

    def list(self, query: AuditQuery) -> Sequence[AuditEvent]:
        columns = audit_events.c
        found = select(audit_events).where(columns.tenant == query.tenant)
        for name in ("action", "resource", "subject"):
            if (wanted := getattr(query, name)) is not None:
                found = found.where(columns[name] == wanted)
        if query.after_time is not None:
            found = found.where(columns.time > query.after_time)
        if query.before_time is not None:
            found = found.where(columns.time < query.before_time)
        if query.before is not None:
            found = found.where(columns.id < query.before)
        if self._keep is not None:
            found = found.where(columns.time >= self._clock.now() - self._keep)
        # Identifiers sort by time.
        found = found.order_by(columns.id.desc()).limit(query.limit)
        names = [field.name for field in fields(AuditEvent)]
        with self._db.read() as connection:
            rows = connection.execute(found).mappings().all()
        return [AuditEvent(**{name: row[name] for name in names}) for row in rows]
