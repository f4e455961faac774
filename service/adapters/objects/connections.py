"""The named connections of a deployment, and the addresses of the local command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from service.adapters.egress.guard import Guard
from service.adapters.objects.folder import FolderStore
from service.adapters.objects.s3 import S3Store
from service.domain.errors import ArrowQuantError
from service.domain.location import clean_prefix
from service.domain.ports import ObjectStore
from service.settings import Connection, FolderConnection, Grant, S3Connection

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ATTEMPTS = 5
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """Keys of an object store, in the clear: made where a client is made, and kept nowhere else."""

    access_key_id: str
    secret_access_key: str
    session_token: str | None = None


class ConfiguredStores:
    """The connections that the operator has named, each opened once for all who see it alike."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = dict(connections)
        self._open: dict[tuple[str, Connection], ObjectStore] = {}

    def names(self, tenant: str) -> list[str]:
        found = self._connections.items()
        return sorted(name for name, connection in found if connection.admits(tenant))

    def open(self, tenant: str, connection: str) -> ObjectStore:
        found = self._connections.get(connection)
        if found is None or not found.admits(tenant):
            raise no_connection(connection, self.names(tenant))
        seen = found.of(tenant)
        store = self._open.get((connection, seen))
        if store is None:
            store = self._open.setdefault((connection, seen), open_connection(seen, connection))
        return store

    def place(self, tenant: str, connection: str) -> str:
        found = self._connections.get(connection)
        if found is None or found.of(tenant) == found:
            return connection
        return f"{tenant}/{connection}"


def no_connection(name: str, known: Sequence[str]) -> ArrowQuantError:
    """A connection_not_found error that says which there are."""
    return ArrowQuantError(
        "connection_not_found",
        f"there is no connection named {name[:80]!r}",
        f"Configured connections: {', '.join(known) or 'none'}.",
        {"connection": name[:80]},
    )


def open_connection(connection: Connection, name: str = "") -> ObjectStore:
    """The store of one connection. Nothing is contacted yet."""
    if isinstance(connection, FolderConnection):
        return FolderStore(connection.path)
    return S3Store(s3_clients(connection, name), connection.bucket, connection.prefix, name)


def s3_clients(
    connection: S3Connection,
    name: str = "",
    *,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
    attempts: int = ATTEMPTS,
    credentials: Callable[[], Credentials | None] | None = None,
    guard: Guard | None = None,
) -> Callable[[], S3Client]:
    """What makes the boto3 client of a connection, in whichever process first needs it.

    credentials  instead of the variables that the connection names; None leaves it to boto3
    guard        for endpoints that users gave: judges what is dialled
    """

    def make() -> S3Client:
        import boto3
        from botocore.config import Config

        # A store of another make may not know the trailing checksums that boto3 adds for AWS.
        # There the signature covers the SHA-256 of the body, so nothing goes unchecked, once.
        own = connection.endpoint_url is not None
        style: Any = {"addressing_style": "path" if connection.uses_path_style else "auto"}
        if own:
            style["payload_signing_enabled"] = True
        # Variables may send all of boto3 elsewhere; what a user gave is what is meant.
        more: Any = {"ignore_configured_endpoint_urls": guard is not None}
        config = Config(
            connect_timeout=connect_timeout_s,
            read_timeout=read_timeout_s,
            retries={"mode": "standard", "total_max_attempts": attempts},
            max_pool_connections=32,
            tcp_keepalive=True,
            signature_version="s3v4",
            request_checksum_calculation="when_required" if own else "when_supported",
            response_checksum_validation="when_required",
            s3=style,
            **more,
        )
        keys = credentials() if credentials else from_variables(connection, name)
        client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=connection.endpoint_url,
            region_name=connection.region or ("us-east-1" if own else None),
            aws_access_key_id=keys.access_key_id if keys else None,
            aws_secret_access_key=keys.secret_access_key if keys else None,
            aws_session_token=keys.session_token if keys else None,
            config=config,
        )
        if guard is not None:
            from service.adapters.egress.s3 import guard_client

            guard_client(client, guard, connection.bucket)
        return client

    return make


def from_variables(named: S3Connection | Grant, connection: str) -> Credentials | None:
    """The credentials in the variables that are named; None where none is."""
    if named.access_key_id_env is None or named.secret_access_key_env is None:
        return None
    token = named.session_token_env
    return Credentials(
        _variable(named.access_key_id_env, connection),
        _variable(named.secret_access_key_env, connection),
        None if token is None else _variable(token, connection),
    )


def _variable(variable: str, connection: str) -> str:
    value = os.environ.get(variable)
    if not value:
        raise ArrowQuantError(
            "storage_access_denied",
            f"the environment variable {variable} of the connection is not set",
            "Set it where the service and its workers run.",
            {"connection": connection},
        )
    return value


def store_for_url(url: str) -> tuple[ObjectStore, str]:
    """The store and the prefix that a command line's address means.

    A folder, a file (its folder and its name), `file://...` or `s3://bucket/prefix`, the last with
    the caller's own AWS configuration. Where nothing is there yet, a path is taken for a folder.
    """
    scheme, separator, rest = url.partition("://")
    if separator and scheme == "s3":
        return _bucket(url, rest)
    if separator and scheme != "file":
        raise _bad_url(url, f"{scheme}:// is not supported; use a path or s3://bucket/prefix")
    path = Path(unquote(urlsplit(url).path) if separator else url).expanduser().absolute()
    if path.is_file():
        return FolderStore(path.parent, confined=False), path.name
    return FolderStore(path, confined=False), ""


def _bucket(url: str, rest: str) -> tuple[ObjectStore, str]:
    bucket, _, prefix = rest.partition("/")
    if not bucket:
        raise _bad_url(url, "the address names no bucket: write s3://bucket/prefix")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    try:
        connection = S3Connection(
            kind="s3",
            bucket=bucket,
            region=region or None,
            endpoint_url=endpoint or None,
            allow_http=True,
        )
        return open_connection(connection), clean_prefix(prefix)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        wrong = f"{first['loc'][0]}: " if first["loc"] else ""
        raise _bad_url(url, wrong + first["msg"].removeprefix("Value error, ")) from None
    except ValueError as error:
        raise _bad_url(url, str(error)) from None


def _bad_url(url: str, detail: str) -> ArrowQuantError:
    shown = url.partition("?")[0][:200]
    return ArrowQuantError("location_not_allowed", detail, "", {"object": shown})
