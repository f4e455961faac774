"""What an admin does with the keys of a tenant."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from service.domain.access import MAX_GRACE, ApiKey, KeyRing, Principal, Scope
from service.domain.errors import ArrowQuantError, FieldError
from service.domain.ports import Clock
from service.usecases.paging import page_position, page_size, page_token

DEFAULT_GRACE: Final = timedelta(days=1)


def create(
    ring: KeyRing,
    clock: Clock,
    caller: Principal,
    name: str,
    scopes: frozenset[Scope],
    expire_time: datetime | None,
) -> tuple[ApiKey, str]:
    """A key of the caller's tenant and its secret. Raises forbidden for a scope that the caller
    does not have: nobody can hand out more than his own."""
    caller.require(scopes)
    if expire_time is not None and expire_time <= clock.now():
        detail = "expire_time lies in the past"
        raise ArrowQuantError(
            "invalid_spec", detail, "", errors=(FieldError("/expire_time", detail),)
        )
    return ring.create(caller.tenant, name, scopes, expire_time)


def rotate(
    ring: KeyRing, caller: Principal, key_id: str, grace: timedelta = DEFAULT_GRACE
) -> tuple[ApiKey, str]:
    """A new secret. It is handed to the caller, so he must have what the key allows."""
    caller.require(get(ring, caller.tenant, key_id).scopes)
    rotated = ring.rotate(key_id, min(grace, MAX_GRACE), caller.tenant)
    if rotated is None:
        raise ArrowQuantError(
            "not_found",
            "the key has expired or was revoked",
            "Create another key.",
            {"api_key": key_id},
        )
    return rotated


def revoke(ring: KeyRing, tenant: str, key_id: str) -> ApiKey:
    """End a key at once; once more changes nothing."""
    ring.revoke(key_id, tenant)
    return get(ring, tenant, key_id)


def get(ring: KeyRing, tenant: str, key_id: str) -> ApiKey:
    """Raises not_found, also for a key of another tenant."""
    key = ring.get(key_id, tenant)
    if key is None:
        raise ArrowQuantError("not_found", "there is no such key", where={"api_key": key_id})
    return key


def list_page(
    ring: KeyRing, tenant: str, size: int | None, token: str | None
) -> tuple[Sequence[ApiKey], str | None]:
    """A page of keys, oldest first, and the token of the next one."""
    filters = {"tenant": tenant}
    limit = page_size(size)
    after = page_position(token, filters, str) if token else ""
    found = ring.list(tenant, after, limit + 1)
    if len(found) <= limit:
        return found, None
    return found[:limit], page_token(found[limit - 1].id, filters)
