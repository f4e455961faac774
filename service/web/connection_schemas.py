"""What the API answers about connections: never an address to those who only use them, never a
credential to anyone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator

from service.domain.connections import CredentialsKind, Prefix, StoredConnection
from service.domain.location import clean_prefix
from service.domain.wire import Wire
from service.usecases.connections import Step
from service.web.schemas import Out


class ConnectionOut(Out):
    """A named place that `source` and `output` may name. `managed_by` is `operator` for those of
    the service's configuration, `tenant` for your own; `prefixes` are what jobs may use of it,
    where it is your own."""

    name: str
    kind: str
    managed_by: Literal["operator", "tenant"]
    prefixes: list[str] | None


class ConnectionList(Out):
    """The connections that `source` and `output` may name."""

    connections: list[ConnectionOut]


class CredentialsOut(Out):
    """Where the credentials come from and since when; `env` is the operator's name for them. What
    was given is never shown again."""

    kind: CredentialsKind
    env: str | None
    update_time: datetime


class ConnectionDetail(Out):
    """A connection of your tenant, as its admins see it."""

    name: str
    kind: Literal["s3"]
    managed_by: Literal["tenant"]
    endpoint_url: str | None
    region: str | None
    bucket: str
    prefixes: list[str]
    path_style: bool | None
    credentials: CredentialsOut
    create_time: datetime
    update_time: datetime

    @classmethod
    def of(cls, found: StoredConnection) -> Self:
        """A connection as kept, without what is sealed in it."""
        place = found.place
        return cls(
            name=found.name,
            kind="s3",
            managed_by="tenant",
            endpoint_url=place.endpoint_url,
            region=place.region,
            bucket=place.bucket,
            prefixes=list(place.prefixes),
            path_style=place.path_style,
            credentials=CredentialsOut(
                kind=found.credentials, env=found.reference, update_time=found.credentials_time
            ),
            create_time=found.create_time,
            update_time=found.update_time,
        )


class TryRequest(Wire):
    """What to try: a prefix of the connection, and whether to write there too."""

    prefix: Prefix | None = None
    write: bool = True

    @field_validator("prefix")
    @classmethod
    def _clean(cls, value: str | None) -> str | None:
        if value is None:
            return None
        cleaned = clean_prefix(value)
        return cleaned if not cleaned or cleaned.endswith("/") else cleaned + "/"


class StepOut(Out):
    """One step. `code` is one of the service's error codes, and all that is said of a failure."""

    name: Literal["list", "write", "read", "delete"]
    ok: bool
    code: str | None


class TryOut(Out):
    """What a job could do with the prefix. A step that could not be tried is not there."""

    ok: bool
    prefix: Annotated[str, Field(description="What was tried.")]
    steps: list[StepOut]

    @classmethod
    def of(cls, prefix: str, steps: Sequence[Step]) -> Self:
        """The steps as they went."""
        shown = [
            StepOut.model_validate({"name": s.name, "ok": s.code is None, "code": s.code})
            for s in steps
        ]
        return cls(ok=all(step.ok for step in shown), prefix=prefix, steps=shown)
