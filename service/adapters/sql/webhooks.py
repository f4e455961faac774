"""Webhook endpoints and their deliveries, as their owner sees them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, RowMapping, delete, func, insert, select, text, update

from service.adapters.sql.engine import Database
from service.adapters.sql.outbox import put
from service.adapters.sql.webhook_tables import attempts, deliveries, endpoints
from service.domain.errors import ArrowQuantError
from service.domain.ids import new_id
from service.domain.ports import Clock
from service.domain.webhooks import (
    MAX_ENDPOINTS,
    Attempt,
    Delivery,
    DeliveryQuery,
    DeliveryState,
    Disabled,
    Endpoint,
    HookEvent,
)

_COUNTING_LOCK = 0x4152_5758  # any number that is ours in the database


class SqlWebhooks:
    """`Webhooks` on SQLite or PostgreSQL."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._db = Database(engine)
        self._clock = clock

    def create(self, endpoint: Endpoint) -> None:
        values = {name: getattr(endpoint, name) for name in Endpoint.__slots__}
        values |= _stored(events=endpoint.events, disabled=endpoint.disabled)
        with self._db.write() as connection:
            if connection.dialect.name == "postgresql":
                # Two at once must not both find the last place free.
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_COUNTING_LOCK})"))
            query = select(func.count()).where(endpoints.c.tenant == endpoint.tenant)
            if connection.execute(query).scalar_one() >= MAX_ENDPOINTS:
                raise ArrowQuantError(
                    "webhook_limit",
                    f"there are {MAX_ENDPOINTS} webhook endpoints already",
                    "Delete one that is no longer needed.",
                )
            connection.execute(insert(endpoints).values(values))

    def get(self, tenant: str, endpoint_id: str) -> Endpoint:
        with self._db.read() as connection:
            return _to_endpoint(_endpoint(connection, tenant, endpoint_id))

    def list(self, tenant: str) -> Sequence[Endpoint]:
        query = select(endpoints).where(endpoints.c.tenant == tenant).order_by(endpoints.c.id)
        with self._db.read() as connection:
            return [_to_endpoint(row) for row in connection.execute(query).mappings()]

    def change(self, tenant: str, endpoint_id: str, **values: Any) -> Endpoint:
        with self._db.write() as connection:
            row = _endpoint(connection, tenant, endpoint_id, lock=True)
            if "disabled" in values and values["disabled"] is None and row["disabled"]:
                values["failing_since"] = None
            return self._update(connection, endpoint_id, **values)

    def rotate(self, tenant: str, endpoint_id: str, secret: bytes, old_until: datetime) -> Endpoint:
        with self._db.write() as connection:
            row = _endpoint(connection, tenant, endpoint_id, lock=True)
            return self._update(
                connection,
                endpoint_id,
                secret=secret,
                old_secret=row["secret"],
                old_secret_until=old_until,
            )

    def delete(self, tenant: str, endpoint_id: str) -> None:
        with self._db.write() as connection:
            _endpoint(connection, tenant, endpoint_id)
            connection.execute(delete(endpoints).where(endpoints.c.id == endpoint_id))

    def queue(
        self, tenant: str, endpoint_id: str, event: HookEvent, data: dict[str, Any]
    ) -> Delivery:
        with self._db.write() as connection:
            _able(_endpoint(connection, tenant, endpoint_id, lock=True))
            origin = new_id(event.value)
            now = self._clock.now()
            (made,) = put(connection, [endpoint_id], event, endpoint_id, origin, data, now)
            return _to_delivery(_delivery(connection, tenant, made))

    def deliveries(self, tenant: str, query: DeliveryQuery) -> Sequence[Delivery]:
        found = select(deliveries).where(deliveries.c.endpoint_id == query.endpoint_id)
        if query.state is not None:
            found = found.where(deliveries.c.state == query.state.value)
        if query.event is not None:
            found = found.where(deliveries.c.event == query.event.value)
        if query.before is not None:
            found = found.where(deliveries.c.id < query.before)
        found = found.order_by(deliveries.c.id.desc()).limit(query.limit)
        with self._db.read() as connection:
            _endpoint(connection, tenant, query.endpoint_id)
            return [_to_delivery(row) for row in connection.execute(found).mappings()]

    def delivery(self, tenant: str, delivery_id: str) -> Delivery:
        with self._db.read() as connection:
            row = _delivery(connection, tenant, delivery_id)
            query = select(attempts).where(attempts.c.delivery_id == delivery_id)
            tried = connection.execute(query.order_by(attempts.c.number)).mappings().all()
        return _to_delivery(row, tuple(_to_attempt(one) for one in tried))

    def redeliver(self, tenant: str, delivery_id: str) -> Delivery:
        with self._db.write() as connection:
            endpoint_id = _delivery(connection, tenant, delivery_id)["endpoint_id"]
            _able(_endpoint(connection, tenant, endpoint_id, lock=True))
            row = _delivery(connection, tenant, delivery_id)
            now = self._clock.now()
            values: dict[str, Any] = {"next_time": now}
            if row["state"] != DeliveryState.PENDING:
                again = {"state": DeliveryState.PENDING.value, "end_time": None}
                values |= again | {"since": now, "tries": 0}
            connection.execute(
                update(deliveries).where(deliveries.c.id == delivery_id).values(values)
            )
            return _to_delivery(_delivery(connection, tenant, delivery_id))

    def _update(self, connection: Connection, endpoint_id: str, **values: Any) -> Endpoint:
        this = endpoints.c.id == endpoint_id
        changed = _stored(**values) | {"update_time": self._clock.now()}
        connection.execute(update(endpoints).where(this).values(changed))
        return _to_endpoint(connection.execute(select(endpoints).where(this)).mappings().one())


def _stored(**values: Any) -> dict[str, Any]:
    if "events" in values:
        values["events"] = [event.value for event in values["events"]]
    if values.get("disabled") is not None:
        values["disabled"] = values["disabled"].value
    return values


def _endpoint(
    connection: Connection, tenant: str, endpoint_id: str, *, lock: bool = False
) -> RowMapping:
    query = select(endpoints).where(endpoints.c.id == endpoint_id, endpoints.c.tenant == tenant)
    if lock:
        query = query.with_for_update(key_share=True)
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise ArrowQuantError(
            "not_found", "there is no such webhook endpoint", where={"endpoint": endpoint_id}
        )
    return row


def _delivery(connection: Connection, tenant: str, delivery_id: str) -> RowMapping:
    query = (
        select(deliveries)
        .join(endpoints, endpoints.c.id == deliveries.c.endpoint_id)
        .where(deliveries.c.id == delivery_id, endpoints.c.tenant == tenant)
    )
    row = connection.execute(query).mappings().one_or_none()
    if row is None:
        raise ArrowQuantError(
            "not_found", "there is no such delivery", where={"delivery": delivery_id}
        )
    return row


def _able(endpoint: RowMapping) -> None:
    if endpoint["disabled"] is not None:
        raise ArrowQuantError(
            "webhook_disabled",
            f"the webhook endpoint is disabled ({endpoint['disabled']})",
            "Enable it first.",
            {"endpoint": endpoint["id"]},
        )


def _to_endpoint(row: RowMapping) -> Endpoint:
    values = {name: row[name] for name in Endpoint.__slots__}
    values["events"] = tuple(HookEvent(event) for event in row["events"])
    values["disabled"] = Disabled(row["disabled"]) if row["disabled"] else None
    return Endpoint(**values)


def _to_delivery(row: RowMapping, tried: tuple[Attempt, ...] = ()) -> Delivery:
    return Delivery(
        id=row["id"],
        endpoint_id=row["endpoint_id"],
        event=HookEvent(row["event"]),
        subject=row["subject"],
        state=DeliveryState(row["state"]),
        attempt_count=row["attempts"],
        next_time=row["next_time"],
        create_time=row["create_time"],
        end_time=row["end_time"],
        attempts=tried,
    )


def _to_attempt(row: RowMapping) -> Attempt:
    return Attempt(row["number"], row["time"], row["duration_ms"], row["status"], row["error"])
