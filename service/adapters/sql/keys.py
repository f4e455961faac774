"""API keys: only hashes are kept."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    and_,
    insert,
    or_,
    select,
    update,
)

from service.adapters.sql.engine import Database
from service.adapters.sql.records import to_key
from service.adapters.sql.tables import api_keys
from service.domain.access import TENANT_SCOPES, USE_NOTED_EVERY, ApiKey, Scope, in_order
from service.domain.errors import ArrowQuantError
from service.domain.ports import Clock

_FORM = re.compile(r"aq_([0-9a-z]{12})_([A-Za-z0-9_-]{43})")
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_NOBODYS = "0" * 64


class SqlKeyRing:
    """`KeyRing`. A secret is 256 random bits, so a plain hash of it cannot be searched."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._db = Database(engine)
        self._clock = clock

    def create(
        self,
        tenant: str,
        name: str,
        scopes: frozenset[Scope] = TENANT_SCOPES,
        expire_time: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))
        secret = secrets.token_urlsafe(32)
        key = ApiKey(key_id, tenant, name, scopes, self._clock.now(), expire_time)
        with self._db.write() as connection:
            connection.execute(
                insert(api_keys).values(
                    id=key.id,
                    tenant=tenant,
                    name=name,
                    sha256=_digest(secret),
                    scopes=[scope.value for scope in in_order(scopes)],
                    create_time=key.create_time,
                    expire_time=expire_time,
                )
            )
        return key, _text(key_id, secret)

    def find(self, text: str) -> ApiKey | None:
        form = _FORM.fullmatch(text)
        if form is None:
            return None
        with self._db.read() as connection:
            row = _row(connection, form[1])
        now = self._clock.now()
        # Both compared whatever is stored, so that the time taken tells nothing.
        given = _digest(form[2])
        present = hmac.compare_digest(row["sha256"] if row else _NOBODYS, given)
        before = hmac.compare_digest((row and row["previous_sha256"]) or _NOBODYS, given)
        if row is None or not _live(row, now):
            return None
        if not present and not (before and row["previous_until"] > now):
            return None
        return self._noted(to_key(row), now)

    def get(self, key_id: str, tenant: str | None = None) -> ApiKey | None:
        with self._db.read() as connection:
            row = _row(connection, key_id, tenant)
        return to_key(row) if row else None

    def list(
        self, tenant: str | None = None, after: str = "", limit: int | None = None
    ) -> Sequence[ApiKey]:
        made, key_id = api_keys.c.create_time, api_keys.c.id
        query = select(api_keys).order_by(made, key_id).limit(limit)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        if after:
            then = select(made).where(key_id == after).scalar_subquery()
            query = query.where(or_(made > then, and_(made == then, key_id > after)))
        with self._db.read() as connection:
            return [to_key(row) for row in connection.execute(query).mappings()]

    def rotate(
        self, key_id: str, grace: timedelta, tenant: str | None = None
    ) -> tuple[ApiKey, str] | None:
        now, secret = self._clock.now(), secrets.token_urlsafe(32)
        with self._db.write() as connection:
            row = _row(connection, key_id, tenant, lock=True)
            if row is None or not _live(row, now):
                return None
            values = {
                "sha256": _digest(secret),
                "previous_sha256": row["sha256"] if grace else None,
                "previous_until": now + grace if grace else None,
            }
            connection.execute(update(api_keys).where(api_keys.c.id == key_id).values(values))
            changed = _row(connection, key_id)
        assert changed is not None
        return to_key(changed), _text(key_id, secret)

    def revoke(self, key_id: str, tenant: str | None = None) -> bool:
        live = (*_named(key_id, tenant), api_keys.c.revoke_time.is_(None))
        with self._db.write() as connection:
            change = update(api_keys).where(*live).values(revoke_time=self._clock.now())
            return connection.execute(change).rowcount == 1

    def _noted(self, key: ApiKey, now: datetime) -> ApiKey:
        if key.last_use_time is not None and now - key.last_use_time < USE_NOTED_EVERY:
            return key
        # A database that can only be read must not lock anybody out.
        with contextlib.suppress(ArrowQuantError), self._db.write() as connection:
            mine = update(api_keys).where(api_keys.c.id == key.id)
            connection.execute(mine.values(last_use_time=now))
        return key


def _row(
    connection: Connection, key_id: str, tenant: str | None = None, *, lock: bool = False
) -> RowMapping | None:
    query = select(api_keys).where(*_named(key_id, tenant))
    return connection.execute(query.with_for_update() if lock else query).mappings().one_or_none()


def _named(key_id: str, tenant: str | None) -> tuple[ColumnElement[bool], ...]:
    mine = api_keys.c.id == key_id
    return (mine,) if tenant is None else (mine, api_keys.c.tenant == tenant)


def _live(row: RowMapping, now: datetime) -> bool:
    expired = row["expire_time"] is not None and row["expire_time"] <= now
    return row["revoke_time"] is None and not expired


def _text(key_id: str, secret: str) -> str:
    return f"aq_{key_id}_{secret}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
