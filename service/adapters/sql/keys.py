"""API keys: only hashes are kept."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets

from sqlalchemy import Engine, insert, select, update

from service.adapters.sql.engine import Database
from service.adapters.sql.records import to_key
from service.adapters.sql.tables import api_keys
from service.domain.ports import ApiKey, Clock

_FORM = re.compile(r"aq_([0-9a-z]{12})_([A-Za-z0-9_-]{43})")
_ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


class SqlKeyRing:
    """`KeyRing`. A secret is 256 random bits, so a plain hash of it cannot be searched."""

    def __init__(self, engine: Engine, clock: Clock) -> None:
        self._db = Database(engine)
        self._clock = clock

    def create(self, tenant: str, name: str) -> tuple[ApiKey, str]:
        key_id = "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))
        secret = secrets.token_urlsafe(32)
        key = ApiKey(key_id, tenant, name, self._clock.now(), None)
        with self._db.write() as connection:
            connection.execute(
                insert(api_keys).values(
                    id=key.id,
                    tenant=tenant,
                    name=name,
                    sha256=_digest(secret),
                    create_time=key.create_time,
                )
            )
        return key, f"aq_{key_id}_{secret}"

    def find(self, text: str) -> ApiKey | None:
        form = _FORM.fullmatch(text)
        if form is None:
            return None
        with self._db.read() as connection:
            query = select(api_keys).where(api_keys.c.id == form[1])
            row = connection.execute(query).mappings().one_or_none()
        # Compared also when there is no such key, so that the time taken does not tell.
        same = hmac.compare_digest(row["sha256"] if row else "0" * 64, _digest(form[2]))
        return to_key(row) if row and same and row["revoke_time"] is None else None

    def list(self, tenant: str | None = None) -> list[ApiKey]:
        query = select(api_keys).order_by(api_keys.c.create_time, api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        with self._db.read() as connection:
            return [to_key(row) for row in connection.execute(query).mappings()]

    def revoke(self, key_id: str) -> bool:
        live = (api_keys.c.id == key_id, api_keys.c.revoke_time.is_(None))
        with self._db.write() as connection:
            change = update(api_keys).where(*live).values(revoke_time=self._clock.now())
            return connection.execute(change).rowcount == 1


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
