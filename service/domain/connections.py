"""Connections that an admin makes over the API: what may be asked for, and what is kept."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Final, Literal, Protocol, Self

from pydantic import (
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from service.domain.egress import target_of
from service.domain.location import clean_prefix
from service.domain.wire import Wire

MAX_PREFIXES: Final = 64
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")

ConnectionName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Region = Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")]
# Of S3 itself: it becomes a part of a host name, so it can hold nothing that ends one.
BucketName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")]
Prefix = Annotated[str, StringConstraints(max_length=1024)]
_Secret = Annotated[SecretStr, Field(min_length=1, max_length=4096)]


class CredentialsRequest(Wire):
    """Where the credentials come from, in one of three ways.

    - `access_key_id` and `secret_access_key` (and `session_token`): stored encrypted, never shown.
    - `env`: a name under which the operator has granted your tenant credentials of the service.
    - `ambient`: the role of the service itself, if the operator has granted it to your tenant.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)
    access_key_id: _Secret | None = None
    secret_access_key: _Secret | None = None
    session_token: _Secret | None = None
    env: ConnectionName | None = None
    ambient: Literal[True] | None = None

    @field_validator("access_key_id", "secret_access_key", "session_token")
    @classmethod
    def _plain(cls, value: SecretStr | None) -> SecretStr | None:
        # It goes into headers.
        if value is not None and not _PRINTABLE.fullmatch(value.get_secret_value()):
            raise ValueError("only printable ASCII without spaces")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("give both access_key_id and secret_access_key")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("a session_token goes with access_key_id and secret_access_key")
        ways = (self.access_key_id, self.env, self.ambient)
        if sum(way is not None for way in ways) != 1:
            raise ValueError("give either access_key_id and secret_access_key, or env, or ambient")
        return self


class PlaceRequest(Wire):
    """The fields of a place that are checked alike when it is made and when it is changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("endpoint_url", check_fields=False)
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        if value is None:
            return None
        target = target_of(value)
        rest = value.partition("://")[2]
        if "?" in rest or "#" in rest or rest.partition("/")[2]:
            raise ValueError("the address is https://host[:port], without a path")
        host = f"[{target.host}]" if ":" in target.host else target.host
        return f"{target.scheme}://{host}:{target.port}"

    @field_validator("bucket", check_fields=False)
    @classmethod
    def _bucket(cls, value: str | None) -> str | None:
        if value is not None and (".." in value or "--" in value):
            raise ValueError("a bucket's name has no '..' and no '--'")
        return value

    @field_validator("prefixes", check_fields=False)
    @classmethod
    def _prefixes(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return None
        cleaned = [clean_prefix(text) for text in value]
        return sorted({text if not text or text.endswith("/") else text + "/" for text in cleaned})


class ConnectionRequest(PlaceRequest):
    """A bucket of S3, or of a store that speaks its protocol, and what jobs may use of it."""

    name: ConnectionName
    kind: Literal["s3"] = "s3"
    endpoint_url: Annotated[str, StringConstraints(max_length=512)] | None = None
    region: Region | None = None
    bucket: BucketName
    prefixes: Annotated[list[Prefix], Field(min_length=1, max_length=MAX_PREFIXES)]
    path_style: bool | None = None
    credentials: CredentialsRequest

    @model_validator(mode="after")
    def _somewhere(self) -> Self:
        if self.endpoint_url is None and self.region is None:
            raise ValueError("give the region of the bucket, or an endpoint_url")
        return self


class ConnectionChange(PlaceRequest):
    """What is to be different. A field that is left out stays as it is."""

    endpoint_url: Annotated[str, StringConstraints(max_length=512)] | None = None
    region: Region | None = None
    bucket: BucketName | None = None
    prefixes: Annotated[list[Prefix], Field(min_length=1, max_length=MAX_PREFIXES)] | None = None
    path_style: bool | None = None
    credentials: CredentialsRequest | None = None


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where a connection leads. Keys of jobs must begin with one of the prefixes ("" is all)."""

    endpoint_url: str | None
    region: str | None
    bucket: str
    prefixes: tuple[str, ...]
    path_style: bool | None = None


CredentialsKind = Literal["stored", "env", "ambient"]


@dataclass(frozen=True, slots=True)
class StoredConnection:
    """A connection as kept. `sealed` is for the vault alone, bound to tenant and id.

    reference  the operator's name of credentials, where `credentials` is "env"
    version    counts changes
    """

    id: str
    tenant: str
    name: str
    place: S3Place
    credentials: CredentialsKind
    reference: str | None
    sealed: bytes | None = field(repr=False)
    version: int
    create_time: datetime
    update_time: datetime
    credentials_time: datetime

    @property
    def context(self) -> tuple[str, ...]:
        """What the vault binds the credentials to."""
        return ("connection", self.tenant, self.id)


class ConnectionBook(Protocol):
    """The connections of all tenants, as kept."""

    def add(self, connection: StoredConnection) -> None:
        """Raises name_in_use."""

    def find(self, tenant: str, name: str) -> StoredConnection | None: ...

    def list(self, tenant: str) -> Sequence[StoredConnection]:
        """By name."""

    def replace(self, old: StoredConnection, new: StoredConnection) -> bool:
        """A compare-and-set on the version; False if it was changed or deleted meanwhile. Raises
        connection_in_use if it would lead elsewhere while a job that has not ended names it."""

    def remove(self, tenant: str, name: str) -> bool:
        """False if there is none. Raises connection_in_use."""
