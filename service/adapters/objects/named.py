"""Every connection that a tenant may name: the operator's, and those of the tenant's admins."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping

import orjson

from service.adapters.egress.guard import Guard
from service.adapters.objects.connections import (
    ConfiguredStores,
    Credentials,
    from_variables,
    no_connection,
    s3_clients,
)
from service.adapters.objects.s3 import S3Store
from service.connection_settings import Grant, S3Connection, granted
from service.domain.connections import ConnectionBook, StoredConnection
from service.domain.ports import ObjectStore
from service.domain.vault import Vault

KEPT_OPEN = 64
# An endpoint of a user may be slow on purpose.
ATTEMPTS = 3
READ_TIMEOUT_S = 30.0


class NamedStores:
    """`ObjectStores`. What an admin changes holds from the next opening on, in every process."""

    def __init__(
        self,
        configured: ConfiguredStores,
        book: ConnectionBook,
        vault: Vault,
        guard: Guard,
        grants: Mapping[str, Grant],
    ) -> None:
        self._configured, self._book = configured, book
        self._vault, self._guard, self._grants = vault, guard, dict(grants)
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[str, int], S3Store] = OrderedDict()

    def names(self, tenant: str) -> list[str]:
        own = [connection.name for connection in self._book.list(tenant)]
        return sorted({*self._configured.names(tenant), *own})

    def open(self, tenant: str, connection: str) -> ObjectStore:
        if connection in self._configured.names(tenant):
            return self._configured.open(tenant, connection)
        found = self._book.find(tenant, connection)
        if found is None:
            raise no_connection(connection, self.names(tenant))
        if found.credentials != "stored":
            granted(self._grants, found)
        with self._lock:
            key = (found.id, found.version)
            store = self._open.setdefault(key, self._store(found))
            self._open.move_to_end(key)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)  # whoever reads from it goes on
            return store

    def place(self, tenant: str, connection: str) -> str:
        if connection in self._configured.names(tenant):
            return self._configured.place(tenant, connection)
        return f"{tenant}/{connection}"

    def _store(self, found: StoredConnection) -> S3Store:
        place = found.place
        connection = S3Connection(
            kind="s3",
            bucket=place.bucket,
            endpoint_url=place.endpoint_url,
            region=place.region,
            path_style=place.path_style,
            allow_http=True,  # the guard decides
        )
        make = s3_clients(
            connection,
            found.name,
            read_timeout_s=READ_TIMEOUT_S,
            attempts=ATTEMPTS,
            credentials=lambda: self._credentials(found),
            guard=self._guard,
        )
        return S3Store(make, place.bucket, name=found.name, within=place.prefixes)

    def _credentials(self, found: StoredConnection) -> Credentials | None:
        if found.credentials == "stored":
            opened = self._vault.open(found.context, found.sealed or b"")
            return Credentials(**orjson.loads(opened))
        return from_variables(granted(self._grants, found), found.name)
