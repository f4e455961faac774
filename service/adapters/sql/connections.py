"""Connections that admins make, in SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, Text, cast, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from service.adapters.sql.connection_tables import connections
from service.adapters.sql.engine import Database
from service.adapters.sql.tables import jobs
from service.domain.connections import S3Place, StoredConnection
from service.domain.errors import ArrowQuantError
from service.domain.job import TERMINAL, JobState

_KEPT = ("id", "tenant", "name", "credentials", "reference", "sealed", "version", "create_time")
_TIMES = ("update_time", "credentials_time")
_ACTIVE = [state for state in JobState if state not in TERMINAL]


class SqlConnections:
    """`ConnectionBook`. Changes look at the jobs in the transaction that writes."""

    def __init__(self, engine: Engine) -> None:
        self._db = Database(engine)

    def add(self, connection: StoredConnection) -> None:
        try:
            with self._db.write() as db:
                db.execute(insert(connections).values(_row(connection)))
        except IntegrityError:
            raise ArrowQuantError(
                "name_in_use", "there is a connection of that name already", "Choose another name."
            ) from None

    def find(self, tenant: str, name: str) -> StoredConnection | None:
        with self._db.read() as db:
            row = db.execute(select(connections).where(*_named(tenant, name))).mappings().first()
        return None if row is None else _record(row)

    def list(self, tenant: str) -> list[StoredConnection]:
        query = select(connections).where(connections.c.tenant == tenant)
        with self._db.read() as db:
            rows = db.execute(query.order_by(connections.c.name)).mappings().all()
        return [_record(row) for row in rows]

    def replace(self, old: StoredConnection, new: StoredConnection) -> bool:
        with self._db.write() as db:
            if old.place != new.place:
                _refuse_if_used(db, old.tenant, old.name)
            this = (connections.c.id == old.id, connections.c.version == old.version)
            return db.execute(update(connections).where(*this).values(_row(new))).rowcount == 1

    def remove(self, tenant: str, name: str) -> bool:
        with self._db.write() as db:
            _refuse_if_used(db, tenant, name)
            return db.execute(delete(connections).where(*_named(tenant, name))).rowcount == 1


def _named(tenant: str, name: str) -> tuple[Any, ...]:
    return (connections.c.tenant == tenant, connections.c.name == name)


def _row(connection: StoredConnection) -> dict[str, Any]:
    row = {name: getattr(connection, name) for name in _KEPT + _TIMES}
    return row | {"place": asdict(connection.place)}


def _record(row: RowMapping) -> StoredConnection:
    place = row["place"]
    return StoredConnection(
        **{name: row[name] for name in _KEPT + _TIMES},
        place=S3Place(**place | {"prefixes": tuple(place["prefixes"])}),
    )


def _refuse_if_used(db: Connection, tenant: str, name: str) -> None:
    """Raises connection_in_use while a job that has not ended reads or writes there."""
    # The text narrows it down to a few rows, the document decides.
    mentions = cast(jobs.c.request, Text).contains(f'"{name}"', autoescape=True)
    query = select(jobs.c.id, jobs.c.request).where(
        jobs.c.tenant == tenant, jobs.c.state.in_(_ACTIVE), mentions
    )
    for row in db.execute(query.order_by(jobs.c.id)):
        if name in _used(row.request):
            raise ArrowQuantError(
                "connection_in_use",
                "a job that has not ended uses the connection",
                "Wait for it or cancel it. New credentials are taken at any time.",
                {"job": row.id},
            )


def _used(value: Any) -> Iterator[str]:
    """Every connection that a request names, wherever it stands."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key == "connection":
                yield str(item)
            yield from _used(item)
    elif isinstance(value, list):
        for item in value:
            yield from _used(item)
