"""How an operator names object stores, and whom he lets use them.

Credentials are never written here: a connection names the variables that hold them, or leaves them
to the usual AWS chain.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    field_validator,
    model_validator,
)

from service.domain.connections import S3Place, StoredConnection
from service.domain.errors import ArrowQuantError
from service.domain.location import clean_prefix, plain_name

Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
TENANT = "{tenant}"


class Shared(BaseModel):
    """What all of an operator's connections have."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    tenants: tuple[str, ...] | None = None

    def admits(self, tenant: str) -> bool:
        """Whether a tenant may use it; all may where none is named."""
        return self.tenants is None or tenant in self.tenants


class FolderConnection(Shared):
    """A folder of this machine or of a mounted file system."""

    kind: Literal["folder"]
    path: Path

    @field_validator("path")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        value = value.expanduser()
        if not value.is_absolute():
            raise ValueError("the path of a folder must be absolute")
        return value

    def of(self, tenant: str) -> Self:
        """The folder as a tenant sees it: his own, where the path has `{tenant}` in it."""
        if TENANT not in str(self.path):
            return self
        path = Path(str(self.path).replace(TENANT, segment(tenant)))
        return self.model_copy(update={"path": path})


class S3Connection(Shared):
    """A bucket, or a prefix of one, of S3 or of a store that speaks its protocol.

    The *_env fields name environment variables. Where none is named, boto3 looks for credentials
    as it always does: AWS_* variables, shared files, the role of the pod or of the instance.
    """

    kind: Literal["s3"]
    bucket: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$")]
    prefix: str = ""
    endpoint_url: str | None = None
    region: Annotated[str, StringConstraints(pattern=r"^[a-z0-9-]{1,64}$")] | None = None
    access_key_id_env: Variable | None = None
    secret_access_key_env: Variable | None = None
    session_token_env: Variable | None = None
    path_style: bool | None = None
    allow_http: bool = False

    @field_validator("prefix")
    @classmethod
    def _clean(cls, value: str) -> str:
        cleaned = clean_prefix(value)
        return cleaned if not cleaned or cleaned.endswith("/") else cleaned + "/"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.access_key_id_env is None) != (self.secret_access_key_env is None):
            raise ValueError("set both access_key_id_env and secret_access_key_env, or neither")
        if self.endpoint_url is not None:
            url = urlsplit(self.endpoint_url)
            if url.scheme not in ("http", "https") or not url.hostname:
                raise ValueError("endpoint_url must be https://host[:port]")
            if url.username or url.password or url.query or url.fragment:
                raise ValueError("endpoint_url must not carry credentials, a query or a fragment")
            if url.scheme == "http" and not (self.allow_http or is_loopback(url.hostname)):
                raise ValueError("endpoint_url is not encrypted: use https, or set allow_http")
        return self

    def of(self, tenant: str) -> Self:
        """The bucket as a tenant sees it: his own prefix, where it has `{tenant}` in it."""
        if TENANT not in self.prefix:
            return self
        return self.model_copy(update={"prefix": self.prefix.replace(TENANT, segment(tenant))})

    @property
    def uses_path_style(self) -> bool:
        """Whether the bucket stands in the path: the default for anything but AWS itself."""
        return self.endpoint_url is not None if self.path_style is None else self.path_style


Connection = Annotated[FolderConnection | S3Connection, Field(discriminator="kind")]


class Grant(BaseModel):
    """Credentials of the service that admins of some tenants may use in connections of their own.

    An admin chooses endpoint, bucket and prefixes; the service's credentials would follow him to
    anyone's. So a grant names for whom and for what it is. `prefix` may have `{tenant}` in it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    tenants: Annotated[tuple[str, ...], Field(min_length=1)]
    buckets: Annotated[tuple[str, ...], Field(min_length=1)]
    prefix: str = ""
    endpoint_url: str | None = None
    ambient: bool = False
    access_key_id_env: Variable | None = None
    secret_access_key_env: Variable | None = None
    session_token_env: Variable | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        named = (self.access_key_id_env, self.secret_access_key_env)
        if self.ambient and any(named):
            raise ValueError("either ambient, or variables")
        if not self.ambient and not all(named):
            raise ValueError("set access_key_id_env and secret_access_key_env, or ambient")
        if self.prefix and not self.prefix.endswith("/"):
            raise ValueError("the prefix must end in '/'")
        return self

    def covers(self, tenant: str, place: S3Place) -> bool:
        """Whether a tenant's connection to a place may use these credentials."""
        if tenant not in self.tenants or place.bucket not in self.buckets:
            return False
        if _plain(place.endpoint_url) != _plain(self.endpoint_url):
            return False
        root = (
            self.prefix.replace(TENANT, segment(tenant)) if TENANT in self.prefix else self.prefix
        )
        return all(prefix.startswith(root) for prefix in place.prefixes)


def granted(grants: Mapping[str, Grant], connection: StoredConnection) -> Grant:
    """The grant that a connection's credentials come from. Raises forbidden, alike for a name that
    does not exist, one of another tenant's, and a place that is not covered."""
    for name, grant in grants.items():
        ambient = connection.credentials == "ambient"
        meant = grant.ambient if ambient else not grant.ambient and name == connection.reference
        if meant and grant.covers(connection.tenant, connection.place):
            return grant
    raise ArrowQuantError(
        "forbidden",
        "the operator has not granted these credentials to your tenant for this place",
        "Ask the operator: a grant names tenants, buckets and the endpoint.",
        {"connection": connection.name},
    )


def _plain(endpoint: str | None) -> tuple[str, str | None, int | None] | None:
    if endpoint is None:
        return None
    url = urlsplit(endpoint)
    return (url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme))


def segment(tenant: str) -> str:
    """A tenant's name as one part of a path. Raises location_not_allowed if it is more than that."""
    if not plain_name(tenant) or "{" in tenant:
        raise ArrowQuantError(
            "location_not_allowed", "the tenant's name cannot be a part of the connection's path"
        )
    return tenant


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_safe_url(url: str) -> bool:
    """Whether what is fetched from here can be believed: over https, or from this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or parts.username or parts.password or parts.fragment:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
