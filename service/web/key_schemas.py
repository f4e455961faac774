"""What the operations on API keys take and answer."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, StringConstraints

from service.domain.access import MAX_GRACE, ApiKey, Scope, in_order
from service.domain.wire import Wire
from service.usecases.keys import DEFAULT_GRACE
from service.web.schemas import Out
from service.web.times import Moment


class ApiKeyRequest(Wire):
    """A key to be made, in your tenant."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00]*$")] = (
        Field(description="What it is for.")
    )
    scopes: frozenset[Scope] = Field(
        min_length=1, description="What it allows: nothing that your own key does not."
    )
    expire_time: Moment | None = Field(
        None, description="From then on it opens nothing. Never, if not given."
    )


class RotateRequest(Wire):
    """How a key changes its secret."""

    grace_s: int = Field(
        int(DEFAULT_GRACE.total_seconds()),
        ge=0,
        le=int(MAX_GRACE.total_seconds()),
        description="Seconds for which the old secret still works: a day if not given.",
    )


class ApiKeyOut(Out):
    """A key without its secret. `last_use_time` is exact to the minute. Until `grace_time` the
    secret before the last rotation works too."""

    id: str
    name: str
    scopes: list[Scope]
    create_time: datetime
    expire_time: datetime | None
    last_use_time: datetime | None
    revoke_time: datetime | None
    grace_time: datetime | None

    @classmethod
    def of(cls, key: ApiKey) -> Self:
        """A key as the API shows it."""
        names = cls.model_fields.keys() - {"scopes", "secret"}
        return cls(scopes=in_order(key.scopes), **{name: getattr(key, name) for name in names})


class SecretApiKeyOut(ApiKeyOut):
    """A key with its secret, which is shown this once. In a replayed answer (`Idempotency-Key`)
    `secret` is null: it is not kept anywhere. If the first answer was lost, rotate the key."""

    secret: str | None

    @classmethod
    def with_secret(cls, key: ApiKey, secret: str | None) -> Self:
        """The same, with what opens."""
        return cls(**ApiKeyOut.of(key).model_dump(), secret=secret)


class ApiKeyPage(Out):
    """Keys, oldest first, ended ones too. With a `next_page_token` there are more."""

    api_keys: list[ApiKeyOut]
    next_page_token: str | None
