"""The outbox: messages written with the change they tell of, and taken from here by couriers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    and_,
    case,
    delete,
    func,
    insert,
    or_,
    select,
    update,
)

from service.adapters.sql.engine import Database
from service.adapters.sql.webhook_tables import attempts, deliveries, endpoints
from service.domain.ids import new_id
from service.domain.ports import Clock
from service.domain.webhooks import (
    DeliveryState,
    Disabled,
    Errand,
    HookEvent,
    Outcome,
)

# Messages under way to one endpoint; to one that fails, a single one.
AT_ONCE = 4
INTERRUPTED = "interrupted"


def announce(
    connection: Connection,
    tenant: str,
    event: HookEvent,
    subject: str,
    origin: str,
    data: dict[str, Any],
    now: datetime,
    notify: Sequence[dict[str, Any]] = (),
) -> None:
    """Write a message for every endpoint that wants the event, in the caller's transaction.

    subject  what it is about: the id of a job or a batch
    origin   what caused it; the same origin makes no second message
    notify   if any, only these: [{webhook_endpoint, events}], whose events replace the filter
    """
    query = (
        select(endpoints.c.id, endpoints.c.events)
        .where(endpoints.c.tenant == tenant, endpoints.c.disabled.is_(None))
        .order_by(endpoints.c.id)
        # So that none is deleted before this transaction ends.
        .with_for_update(read=True, key_share=True)
    )
    chosen = [
        row.id
        for row in connection.execute(query).all()
        if _wants(row.id, row.events, event, notify)
    ]
    put(connection, chosen, event, subject, origin, data, now)


def anyone_listens(connection: Connection, tenant: str) -> bool:
    """Whether a tenant has an endpoint that may want a message: asked once for many of them."""
    query = select(endpoints.c.id).where(
        endpoints.c.tenant == tenant, endpoints.c.disabled.is_(None)
    )
    return connection.execute(query.limit(1)).first() is not None


def put(
    connection: Connection,
    endpoint_ids: Iterable[str],
    event: HookEvent,
    subject: str,
    origin: str,
    data: dict[str, Any],
    now: datetime,
) -> list[str]:
    """Write one message to each of the endpoints; the ids of the deliveries."""
    body = message(event, data, now)
    rows = [_new_row(one, event, subject, origin, body, now) for one in endpoint_ids]
    if rows:
        connection.execute(insert(deliveries), rows)
    return [row["id"] for row in rows]


def message(event: HookEvent, data: dict[str, Any], now: datetime) -> bytes:
    """The body, as Standard Webhooks advises: type, timestamp, data."""
    body = {"type": event.value, "timestamp": now.astimezone(UTC), "data": data}
    return orjson.dumps(body, option=orjson.OPT_UTC_Z)


class SqlOutbox:
    """`Outbox`.

    lease_s    a courier that does not report for so long has lost its errand
    disable_s  an endpoint that nothing reached for so long is turned off
    """

    def __init__(
        self, engine: Engine, clock: Clock, lease_s: float = 60.0, disable_s: float = 5 * 86400.0
    ) -> None:
        self._db = Database(engine)
        self._clock = clock
        self._lease = timedelta(seconds=lease_s)
        self._disable = timedelta(seconds=disable_s)

    def claim(self, limit: int, *, failing: bool = True) -> Sequence[Errand]:
        query = _next_endpoint(self._clock.now(), failing)
        with self._db.read() as connection:
            # Looking first takes no lock: idle couriers ask every second.
            if connection.execute(query).first() is None:
                return ()
        with self._db.write() as connection:
            locking = query.with_for_update(of=endpoints, key_share=True, skip_locked=True)
            endpoint = connection.execute(locking).mappings().first()
            if endpoint is None:
                return ()
            now = self._clock.now()
            # Counted again now that the endpoint is locked: others may just have taken some.
            room = _at_once(endpoint) - _under_way(connection, endpoint["id"], now)
            due = connection.execute(_due(endpoint["id"], now, min(limit, room))).mappings().all()
            return [self._take(connection, endpoint, row, now) for row in due]

    def finish(self, errand: Errand, outcome: Outcome, next_time: datetime | None) -> bool:
        with self._db.write() as connection:
            endpoint = _lock_endpoint(connection, errand.endpoint_id)
            if endpoint is None or not _holds(connection, errand):
                return False
            row = {
                "delivery_id": errand.id,
                "number": errand.attempt,
                "time": outcome.time,
                "duration_ms": outcome.duration_ms,
                "status": outcome.status,
                "error": outcome.error,
            }
            connection.execute(insert(attempts).values(row))
            values = _after(outcome, next_time, self._clock.now())
            connection.execute(
                update(deliveries).where(deliveries.c.id == errand.id).values(values)
            )
            self._note_health(connection, endpoint, outcome)
            return True

    def release(self, errand: Errand) -> None:
        with self._db.write() as connection:
            if _lock_endpoint(connection, errand.endpoint_id) is None:
                return
            if _holds(connection, errand):
                connection.execute(
                    update(deliveries)
                    .where(deliveries.c.id == errand.id)
                    .values(lease_expires=None, attempts=errand.attempt - 1, tries=errand.tries - 1)
                )

    def forget(self, before: datetime) -> int:
        old = deliveries.c.since < before
        with self._db.read() as connection:
            if connection.execute(select(deliveries.c.id).where(old).limit(1)).first() is None:
                return 0
        with self._db.write() as connection:
            return connection.execute(delete(deliveries).where(old)).rowcount

    def _take(
        self, connection: Connection, endpoint: RowMapping, row: RowMapping, now: datetime
    ) -> Errand:
        if row["lease_expires"] is not None:
            # Whoever had it never reported: what became of that attempt nobody knows.
            lost = {"delivery_id": row["id"], "number": row["attempts"], "error": INTERRUPTED}
            connection.execute(insert(attempts).values(lost | {"time": row["claim_time"]}))
        values = {
            "fence": row["fence"] + 1,
            "attempts": row["attempts"] + 1,
            "tries": row["tries"] + 1,
            "claim_time": now,
            "lease_expires": now + self._lease,
        }
        taken = connection.execute(
            update(deliveries)
            .where(deliveries.c.id == row["id"], deliveries.c.fence == row["fence"])
            .values(values)
        )
        if taken.rowcount != 1:
            raise AssertionError(f"delivery {row['id']} changed under its endpoint's lock")
        return Errand(
            id=row["id"],
            endpoint_id=endpoint["id"],
            tenant=endpoint["tenant"],
            event=HookEvent(row["event"]),
            url=endpoint["url"],
            body=row["body"],
            secrets=_secrets(endpoint, now),
            attempt=values["attempts"],
            tries=values["tries"],
            fence=values["fence"],
            since=row["since"],
            failing=endpoint["failing_since"] is not None,
        )

    def _note_health(self, connection: Connection, endpoint: RowMapping, outcome: Outcome) -> None:
        """Keep since when nothing gets through, and turn off what has long been dead."""
        values: dict[str, Any] = {}
        since = None if outcome.ok else endpoint["failing_since"] or outcome.time
        if since != endpoint["failing_since"]:
            values["failing_since"] = since
        if endpoint["disabled"] is None and not outcome.ok:
            if outcome.gone:
                values["disabled"] = Disabled.GONE.value
            elif since is not None and outcome.time - since >= self._disable:
                values["disabled"] = Disabled.FAILING.value
        if "disabled" in values:
            values["update_time"] = self._clock.now()
        if values:
            connection.execute(
                update(endpoints).where(endpoints.c.id == endpoint["id"]).values(values)
            )


def _wants(
    endpoint_id: str, events: list[str], event: HookEvent, notify: Sequence[dict[str, Any]]
) -> bool:
    if not notify:
        return not events or event.value in events
    for named in notify:
        if named["webhook_endpoint"] == endpoint_id:
            wanted = named.get("events") or events
            if not wanted or event.value in wanted:
                return True
    return False


def _new_row(
    endpoint_id: str, event: HookEvent, subject: str, origin: str, body: bytes, now: datetime
) -> dict[str, Any]:
    return {
        "id": new_id("msg", int(now.timestamp() * 1000)),
        "endpoint_id": endpoint_id,
        "event": event.value,
        "subject": subject,
        "origin": origin,
        "body": body,
        "state": DeliveryState.PENDING.value,
        "next_time": now,
        "attempts": 0,
        "tries": 0,
        "since": now,
        "fence": 0,
        "create_time": now,
    }


def _after(outcome: Outcome, next_time: datetime | None, now: datetime) -> dict[str, Any]:
    values: dict[str, Any] = {"lease_expires": None, "next_time": next_time}
    if outcome.ok or outcome.gone or next_time is None:
        state = DeliveryState.DELIVERED if outcome.ok else DeliveryState.FAILED
        values |= {"state": state.value, "next_time": None, "end_time": now}
    return values


def _holds(connection: Connection, errand: Errand) -> bool:
    query = (
        select(deliveries.c.id)
        .where(
            deliveries.c.id == errand.id,
            deliveries.c.fence == errand.fence,
            deliveries.c.lease_expires.is_not(None),
        )
        .with_for_update(key_share=True)
    )
    return connection.execute(query).first() is not None


def _lock_endpoint(connection: Connection, endpoint_id: str) -> RowMapping | None:
    """Always before a delivery, as in a deletion, so that nobody waits in a circle."""
    query = select(endpoints).where(endpoints.c.id == endpoint_id)
    return connection.execute(query.with_for_update(key_share=True)).mappings().one_or_none()


def _secrets(endpoint: RowMapping, now: datetime) -> tuple[bytes, ...]:
    until = endpoint["old_secret_until"]
    old = (endpoint["old_secret"],) if until is not None and until > now else ()
    return (endpoint["secret"], *old)


def _at_once(endpoint: RowMapping) -> int:
    return AT_ONCE if endpoint["failing_since"] is None else 1


def _leased(now: datetime) -> ColumnElement[bool]:
    pending = deliveries.c.state == DeliveryState.PENDING.value
    return and_(pending, deliveries.c.lease_expires > now)


def _is_due(now: datetime) -> ColumnElement[bool]:
    free = or_(deliveries.c.lease_expires.is_(None), deliveries.c.lease_expires <= now)
    pending = deliveries.c.state == DeliveryState.PENDING.value
    return and_(pending, deliveries.c.next_time <= now, free)


def _under_way(connection: Connection, endpoint_id: str, now: datetime) -> int:
    query = select(func.count()).where(deliveries.c.endpoint_id == endpoint_id, _leased(now))
    return int(connection.execute(query).scalar_one())


def _due(endpoint_id: str, now: datetime, limit: int) -> Select[Any]:
    return (
        select(deliveries)
        .where(deliveries.c.endpoint_id == endpoint_id, _is_due(now))
        .order_by(deliveries.c.next_time, deliveries.c.id)
        .limit(max(0, limit))
    )


def _next_endpoint(now: datetime, failing: bool) -> Select[Any]:
    """The endpoint to serve next: first those that work, then by how little is under way."""
    waiting = (
        select(deliveries.c.endpoint_id, func.min(deliveries.c.next_time).label("first"))
        .where(_is_due(now))
        .group_by(deliveries.c.endpoint_id)
        .subquery()
    )
    busy = (
        select(deliveries.c.endpoint_id, func.count().label("number"))
        .where(_leased(now))
        .group_by(deliveries.c.endpoint_id)
        .subquery()
    )
    fails = case((endpoints.c.failing_since.is_(None), 0), else_=1)
    under_way = func.coalesce(busy.c.number, 0)
    query = (
        select(endpoints)
        .join(waiting, waiting.c.endpoint_id == endpoints.c.id)
        .outerjoin(busy, busy.c.endpoint_id == endpoints.c.id)
        .where(
            endpoints.c.disabled.is_(None),
            under_way < case((endpoints.c.failing_since.is_(None), AT_ONCE), else_=1),
        )
        .order_by(fails, under_way, waiting.c.first, endpoints.c.id)
        .limit(1)
    )
    return query if failing else query.where(endpoints.c.failing_since.is_(None))
