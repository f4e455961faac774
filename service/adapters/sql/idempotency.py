"""Answers to requests that carried an Idempotency-Key."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Engine, RowMapping, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from service.adapters.sql.engine import Database
from service.adapters.sql.tables import idempotency
from service.domain.ports import Clock, StoredResponse

# A request still in flight after this long died with its process: its key is free again.
IN_FLIGHT = timedelta(seconds=60)


class SqlIdempotencyStore:
    """`IdempotencyStore`. Old answers are forgotten by `SqlLedger.sweep`."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._db = Database(engine)
        self._clock = clock

    def begin(self, tenant: str, path: str, key: str, fingerprint: str) -> StoredResponse | None:
        while True:
            if self._insert(tenant, path, key, fingerprint):
                return None
            row = self._read(tenant, path, key)
            if row is None:
                continue  # forgotten between the two
            if not self._abandoned(row):
                return StoredResponse(
                    row["fingerprint"], row["status"], row["headers"], row["body"]
                )
            if self._take_over(row, fingerprint):
                return None

    def finish(
        self,
        tenant: str,
        path: str,
        key: str,
        status: int,
        headers: dict[str, str],
        body: bytes,
        fingerprint: str | None = None,
    ) -> None:
        values: dict[str, Any] = {"status": status, "headers": headers, "body": body}
        if fingerprint is not None:
            values["fingerprint"] = fingerprint
        with self._db.write() as connection:
            connection.execute(update(idempotency).where(*_this(tenant, path, key)).values(values))

    def renew(self, tenant: str, path: str, key: str) -> None:
        unfinished = idempotency.c.status.is_(None)
        with self._db.write() as connection:
            connection.execute(
                update(idempotency)
                .where(*_this(tenant, path, key), unfinished)
                .values(create_time=self._clock.now())
            )

    def forget(self, tenant: str, path: str, key: str) -> None:
        unfinished = idempotency.c.status.is_(None)
        with self._db.write() as connection:
            connection.execute(delete(idempotency).where(*_this(tenant, path, key), unfinished))

    def _insert(self, tenant: str, path: str, key: str, fingerprint: str) -> bool:
        values: dict[str, Any] = {"tenant": tenant, "path": path, "key": key, "headers": {}}
        values |= {"fingerprint": fingerprint, "body": b"", "create_time": self._clock.now()}
        try:
            with self._db.write() as connection:
                connection.execute(insert(idempotency).values(values))
        except IntegrityError:
            return False
        return True

    def _read(self, tenant: str, path: str, key: str) -> RowMapping | None:
        with self._db.read() as connection:
            query = select(idempotency).where(*_this(tenant, path, key))
            return connection.execute(query).mappings().one_or_none()

    def _abandoned(self, row: RowMapping) -> bool:
        return bool(row["status"] is None and self._clock.now() - row["create_time"] > IN_FLIGHT)

    def _take_over(self, row: RowMapping, fingerprint: str) -> bool:
        unchanged = (
            idempotency.c.status.is_(None),
            idempotency.c.create_time == row["create_time"],
        )
        with self._db.write() as connection:
            change = (
                update(idempotency)
                .where(*_this(row["tenant"], row["path"], row["key"]), *unchanged)
                .values(fingerprint=fingerprint, create_time=self._clock.now())
            )
            return connection.execute(change).rowcount == 1


def _this(tenant: str, path: str, key: str) -> tuple[ColumnElement[bool], ...]:
    columns = idempotency.c
    return (columns.tenant == tenant, columns.path == path, columns.key == key)
