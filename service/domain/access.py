"""Who may do what: scopes, the keys that carry them, and the caller they make."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol

from service.domain.errors import ArrowQuantError

# What a tenant's name may be where somebody chooses it: in a token's claim, in a path, for a key.
TENANT_FORM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,127}")
# A key's last use is noted at most this often: reading must not become writing.
USE_NOTED_EVERY: Final = timedelta(minutes=1)
# After a rotation the old secret works no longer than this.
MAX_GRACE: Final = timedelta(days=30)


class Scope(StrEnum):
    """What a key or a token allows."""

    JOBS_READ = "jobs:read"
    JOBS_WRITE = "jobs:write"
    ARTIFACTS_READ = "artifacts:read"
    ADMIN = "admin"  #: the tenant's own keys, connections, webhooks and log; implies those above
    OPERATOR = "operator"  #: workers, queues and every tenant's quotas; implies nothing


# Everything that a tenant can do with what is its own.
TENANT_SCOPES: Final = frozenset(Scope) - {Scope.OPERATOR}
ALL_SCOPES: Final = frozenset(Scope)


def effective(scopes: Iterable[Scope]) -> frozenset[Scope]:
    """Scopes with those that they imply."""
    held = frozenset(scopes)
    return held | TENANT_SCOPES if Scope.ADMIN in held else held


def in_order(scopes: Iterable[Scope]) -> list[Scope]:
    """Scopes as they are shown: from the least to the most."""
    held = set(scopes)
    return [scope for scope in Scope if scope in held]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks.

    subject  `key:<id>`, `oidc:<subject of the token>`, or `local` where there are no keys
    scopes   as granted, without what they imply
    """

    tenant: str
    subject: str
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the caller has a scope, given or implied."""
        return scope in effective(self.scopes)

    def require(self, scopes: Iterable[str]) -> None:
        """Raises forbidden, naming what is missing."""
        missing = [Scope(scope) for scope in scopes if not self.may(Scope(scope))]
        if missing:
            held = ", ".join(in_order(self.scopes)) or "none"
            raise ArrowQuantError(
                "forbidden",
                f"this needs the scope {', '.join(missing)}; the caller has {held}",
                "Use a key that has it; an admin of the tenant can make one.",
                {"scope": missing[0].value},
            )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as stored: only its hash. `id` is the public prefix.

    expire_time    from then on it opens nothing; None: never
    last_use_time  to the minute; None: never used
    grace_time     the secret before the last rotation works until then; None: there is none
    """

    id: str
    tenant: str
    name: str
    scopes: frozenset[Scope]
    create_time: datetime
    expire_time: datetime | None = None
    last_use_time: datetime | None = None
    revoke_time: datetime | None = None
    grace_time: datetime | None = None


class KeyRing(Protocol):
    """API keys. Where a tenant is given, the keys of others do not exist."""

    def create(
        self,
        tenant: str,
        name: str,
        scopes: frozenset[Scope] = TENANT_SCOPES,
        expire_time: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key and its secret text `aq_<id>_<secret>`, which is never shown again."""

    def find(self, text: str) -> ApiKey | None:
        """The live key this text belongs to; compares in constant time and notes the use.
        None for unknown, revoked and expired keys alike."""

    def get(self, key_id: str, tenant: str | None = None) -> ApiKey | None: ...

    def list(
        self, tenant: str | None = None, after: str = "", limit: int | None = None
    ) -> Sequence[ApiKey]:
        """Keys, oldest first, after the one with the given id."""

    def rotate(
        self, key_id: str, grace: timedelta, tenant: str | None = None
    ) -> tuple[ApiKey, str] | None:
        """A new secret for a live key; the one before works for `grace` more, and any older one
        not at all. None if there is no such live key."""

    def revoke(self, key_id: str, tenant: str | None = None) -> bool:
        """End a key at once. False if there is no such key or it had ended."""


class TokenVerifier(Protocol):
    """Bearer tokens of an identity provider."""

    def verify(self, token: str) -> Principal | None:
        """Whose token it is. None for everything that is not a valid one, whatever is wrong with
        it. Raises identity_unavailable while the provider's keys cannot be had."""
