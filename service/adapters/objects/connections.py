"""The named connections of a deployment, and the addresses of the local command line."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from service.adapters.objects.folder import FolderStore
from service.adapters.objects.s3 import S3Store
from service.domain.errors import ArrowQuantError
from service.domain.location import clean_prefix
from service.domain.ports import ObjectStore
from service.settings import Connection, FolderConnection, S3Connection

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ATTEMPTS = 5
CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0


class ConfiguredStores:
    """The connections an administrator has named. Each is opened once."""

    def __init__(self, connections: Mapping[str, Connection]) -> None:
        self._connections = dict(connections)
        self._open: dict[str, ObjectStore] = {}

    def names(self, tenant: str) -> list[str]:
        return sorted(self._connections)

    def open(self, tenant: str, connection: str) -> ObjectStore:
        store = self._open.get(connection)
        if store is not None:
            return store
        found = self._connections.get(connection)
        if found is None:
            known = ", ".join(self.names(tenant)) or "none"
            raise ArrowQuantError(
                "connection_not_found",
                f"there is no connection named {connection[:80]!r}",
                f"Configured connections: {known}.",
                {"connection": connection[:80]},
            )
        return self._open.setdefault(connection, open_connection(found, connection))


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
) -> Callable[[], S3Client]:
    """What makes the boto3 client of a connection, in whichever process first needs it."""

    def make() -> S3Client:
        import boto3
        from botocore.config import Config

        # A store of another make may not know the trailing checksums that boto3 adds for AWS.
        # There the signature covers the SHA-256 of the body, so nothing goes unchecked, once.
        own = connection.endpoint_url is not None
        style: Any = {"addressing_style": "path" if connection.uses_path_style else "auto"}
        if own:
            style["payload_signing_enabled"] = True
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
        )
        client: S3Client = boto3.session.Session().client(
            "s3",
            endpoint_url=connection.endpoint_url,
            region_name=connection.region or ("us-east-1" if own else None),
            aws_access_key_id=_variable(connection.access_key_id_env, name),
            aws_secret_access_key=_variable(connection.secret_access_key_env, name),
            aws_session_token=_variable(connection.session_token_env, name),
            config=config,
        )
        return client

    return make


def _variable(variable: str | None, connection: str) -> str | None:
    if variable is None:
        return None
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
