"""Connections of a tenant's admins: make, change, try, remove."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import orjson

from service.connection_settings import Connection, Grant, granted
from service.domain.connections import (
    ConnectionBook,
    ConnectionChange,
    ConnectionRequest,
    CredentialsRequest,
    S3Place,
    StoredConnection,
)
from service.domain.egress import Egress
from service.domain.errors import ArrowQuantError, FieldError
from service.domain.ids import new_id
from service.domain.ports import Clock, ObjectStore, ObjectStores
from service.domain.vault import Vault
from service.usecases.bounded import Bounded
from service.usecases.plan import pointed

TRY_S: Final = 30.0
_resolving = Bounded(10.0, 16, "storage_unavailable", "looking up the endpoint")
_trying = Bounded(TRY_S, 16, "storage_unavailable", "trying the connection")
PROBE: Final = b"ArrowQuant looks whether it may write here. It is safe to delete this object.\n"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried. `code` says why it failed; nothing that the store said is kept."""

    name: str
    code: str | None


@dataclass(frozen=True, slots=True)
class Connections:
    """What admins do with connections. `configured` are the operator's: their names are taken."""

    book: ConnectionBook
    vault: Vault
    egress: Egress
    stores: ObjectStores
    clock: Clock
    configured: Mapping[str, Connection]
    grants: Mapping[str, Grant]

    def create(self, tenant: str, request: ConnectionRequest) -> StoredConnection:
        """Raises name_in_use, endpoint_not_allowed, forbidden, secrets_not_configured."""
        if request.name in self.configured:
            raise ArrowQuantError(
                "name_in_use",
                "the operator has a connection of that name",
                "Choose another name.",
                errors=(FieldError("/name", "the name is taken"),),
            )
        place = S3Place(
            request.endpoint_url,
            request.region,
            request.bucket,
            tuple(request.prefixes),
            request.path_style,
        )
        now = self.clock.now()
        made = StoredConnection(
            id=new_id("con"),
            tenant=tenant,
            name=request.name,
            place=place,
            credentials="stored",
            reference=None,
            sealed=None,
            version=1,
            create_time=now,
            update_time=now,
            credentials_time=now,
        )
        made = self._with_credentials(made, request.credentials)
        self._check(made)
        self.book.add(made)
        return made

    def list(self, tenant: str) -> Sequence[StoredConnection]:
        """The tenant's own, by name."""
        return self.book.list(tenant)

    def get(self, tenant: str, name: str) -> StoredConnection:
        """Raises not_found; the operator's are not his to look into."""
        found = self.book.find(tenant, name)
        if found is None:
            raise _not_found(name)
        return found

    def change(self, tenant: str, name: str, change: ConnectionChange) -> StoredConnection:
        """Raises what `create` raises, and connection_in_use where it would lead elsewhere."""
        old = self.get(tenant, name)
        given = {k: getattr(change, k) for k in change.model_fields_set - {"credentials"}}
        if "prefixes" in given:
            given["prefixes"] = tuple(given["prefixes"] or ())
        place = replace(old.place, **given)
        if not place.bucket or not place.prefixes or not (place.endpoint_url or place.region):
            raise _invalid("", "a connection needs a bucket, prefixes, and a region or an endpoint")
        new = replace(old, place=place, version=old.version + 1, update_time=self.clock.now())
        if change.credentials is not None:
            new = self._with_credentials(
                replace(new, credentials_time=new.update_time), change.credentials
            )
        elif old.credentials == "stored" and old.place.endpoint_url != place.endpoint_url:
            # Whoever may change the address does not thereby get what others have stored.
            raise _invalid(
                "/credentials", "with another endpoint, the credentials have to be given again"
            )
        self._check(new)
        if not self.book.replace(old, new):
            raise ArrowQuantError(
                "connection_in_use",
                "the connection was changed by somebody else at the same time",
                "Read it and send the change again.",
            )
        return new

    def remove(self, tenant: str, name: str) -> None:
        """Raises not_found, connection_in_use."""
        if not self.book.remove(tenant, name):
            raise _not_found(name)

    def attempt(self, tenant: str, name: str, prefix: str, *, write: bool) -> Sequence[Step]:
        """Look whether jobs could use a prefix of the connection, one step after another.

        Each says ok or one of our codes: what the endpoint has answered is for nobody's eyes, or
        it could be used to look into places that only the service reaches.
        """
        store = self.stores.open(tenant, self.get(tenant, name).name)
        key = f"{prefix}.arrowquant-{secrets.token_hex(8)}"
        steps: list[tuple[str, Callable[[], object]]] = [("list", lambda: _first(store, prefix))]
        if write:
            steps += [
                ("write", lambda: store.put(key, PROBE)),
                ("read", lambda: _same(store, key)),
                ("delete", lambda: store.delete(key)),
            ]
        return _trying.call(lambda: _tried(steps))

    def _with_credentials(
        self, connection: StoredConnection, given: CredentialsRequest
    ) -> StoredConnection:
        if given.ambient:
            return replace(connection, credentials="ambient", reference=None, sealed=None)
        if given.env is not None:
            return replace(connection, credentials="env", reference=given.env, sealed=None)
        sealed = self.vault.seal(connection.context, _in_the_clear(given))
        return replace(connection, credentials="stored", reference=None, sealed=sealed)

    def _check(self, connection: StoredConnection) -> None:
        if connection.credentials != "stored":
            try:
                granted(self.grants, connection)
            except ArrowQuantError as error:
                raise pointed(error, "/credentials") from None
        endpoint = connection.place.endpoint_url
        if endpoint is None:
            return
        try:
            _resolving.call(lambda: self.egress.check(endpoint))
        except ArrowQuantError as error:
            raise pointed(error, "/endpoint_url") from None


def _in_the_clear(given: CredentialsRequest) -> bytes:
    fields = ("access_key_id", "secret_access_key", "session_token")
    found = {name: getattr(given, name) for name in fields}
    return orjson.dumps({k: v.get_secret_value() for k, v in found.items() if v is not None})


def _tried(steps: Sequence[tuple[str, Callable[[], object]]]) -> Sequence[Step]:
    done = []
    for name, step in steps:
        try:
            step()
        except ArrowQuantError as error:
            done.append(Step(name, error.code))
            if name == "write":
                break  # there is nothing to read and to delete
        else:
            done.append(Step(name, None))
    return done


def _first(store: ObjectStore, prefix: str) -> None:
    next(iter(store.list(prefix)), None)


def _same(store: ObjectStore, key: str) -> None:
    if store.read(key, 0, len(PROBE)) != PROBE:
        raise ArrowQuantError("digest_mismatch", "the probe reads differently")


def _not_found(name: str) -> ArrowQuantError:
    return ArrowQuantError(
        "not_found",
        f"you have no connection named {name[:80]!r}",
        "GET /v1/connections lists them; those of the operator are not changed here.",
    )


def _invalid(pointer: str, detail: str) -> ArrowQuantError:
    return ArrowQuantError("invalid_spec", detail, errors=(FieldError(pointer, detail),))
