"""Connections: what jobs may name, and how a tenant's admins make their own."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path
from starlette.responses import Response

from service.domain.connections import ConnectionChange, ConnectionRequest
from service.usecases.connections import Connections
from service.web.answers import failures, json_answer
from service.web.auth import Admin, JobsRead
from service.web.connection_schemas import (
    ConnectionDetail,
    ConnectionList,
    ConnectionOut,
    TryOut,
    TryRequest,
)
from service.web.context import Shared
from service.web.idempotency import Documented, SecretRoute
from service.wiring import Deps

router = APIRouter(prefix="/v1/connections", tags=["connections"], route_class=SecretRoute)

_EXAMPLE: Final[dict[str, Any]] = {
    "name": "team-models",
    "endpoint_url": "https://s3.example.com",
    "region": "us-east-1",
    "bucket": "team-models",
    "prefixes": ["models/", "artifacts/"],
    "credentials": {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "..."},
}
_ROTATION: Final = {"credentials": {"access_key_id": "AKIAEXAMPLE", "secret_access_key": "..."}}
_BODY: Final = ("invalid_spec", "payload_too_large", "unsupported_media_type")
_REPEATABLE: Final = ("idempotency_key_reused", "idempotency_in_flight")
_PLACE: Final = ("endpoint_not_allowed", "secrets_not_configured", "storage_unavailable")

Name = Annotated[
    str, Path(description="The connection's name.", examples=["team-models"], max_length=128)
]


def _of(deps: Deps) -> Connections:
    return Connections(
        deps.connections,
        deps.vault,
        deps.egress,
        deps.stores,
        deps.clock,
        deps.settings.connections,
        deps.settings.credentials,
    )


@router.get(
    "",
    operation_id="list_connections",
    summary="List the connections",
    response_model=ConnectionList,
    responses=failures(),
)
def list_connections(tenant: JobsRead, shared: Shared) -> Response:
    """The names that `source.connection` and `output.connection` may have: those of the operator
    that your tenant may use, and your own."""
    deps = shared.deps
    configured = [
        ConnectionOut(name=name, kind=connection.kind, managed_by="operator", prefixes=None)
        for name, connection in deps.settings.connections.items()
        if connection.admits(tenant)
    ]
    known = {connection.name for connection in configured}
    own = [
        ConnectionOut(
            name=found.name, kind="s3", managed_by="tenant", prefixes=list(found.place.prefixes)
        )
        for found in _of(deps).list(tenant)
        if found.name not in known
    ]
    return json_answer(ConnectionList(connections=sorted(configured + own, key=lambda c: c.name)))


@router.post(
    "",
    operation_id="create_connection",
    summary="Create a connection",
    status_code=201,
    response_model=ConnectionDetail,
    responses=failures("name_in_use", *_PLACE, *_BODY, *_REPEATABLE),
    dependencies=[Documented],
)
def create_connection(
    body: Annotated[ConnectionRequest, Body(openapi_examples={"s3": {"value": _EXAMPLE}})],
    tenant: Admin,
    shared: Shared,
) -> Response:
    """A bucket that jobs of your tenant may name, and the prefixes they may use. The endpoint must
    be a public host with https, unless the operator has listed it. Credentials are encrypted and
    never shown again. Nothing is asked of the store yet: `/test` does."""
    made = _of(shared.deps).create(tenant, body)
    return json_answer(ConnectionDetail.of(made), 201, {"Location": f"/v1/connections/{made.name}"})


@router.get(
    "/{name}",
    operation_id="get_connection",
    summary="Get a connection",
    response_model=ConnectionDetail,
    responses=failures("not_found", "invalid_spec"),
)
def get_connection(name: Name, tenant: Admin, shared: Shared) -> Response:
    """A connection of your tenant. Of its credentials, only where they come from."""
    return json_answer(ConnectionDetail.of(_of(shared.deps).get(tenant, name)))


@router.patch(
    "/{name}",
    operation_id="update_connection",
    summary="Change a connection",
    response_model=ConnectionDetail,
    responses=failures("not_found", "connection_in_use", *_PLACE, *_BODY),
)
def update_connection(
    name: Name,
    body: Annotated[
        ConnectionChange, Body(openapi_examples={"rotate_credentials": {"value": _ROTATION}})
    ],
    tenant: Admin,
    shared: Shared,
) -> Response:
    """Replace the fields that are given. New credentials are taken at any time and hold at once.
    Anything else waits until no active job names the connection; another endpoint needs the
    credentials again."""
    return json_answer(ConnectionDetail.of(_of(shared.deps).change(tenant, name, body)))


@router.delete(
    "/{name}",
    operation_id="delete_connection",
    summary="Delete a connection",
    status_code=204,
    responses=failures("not_found", "connection_in_use", "invalid_spec", *_REPEATABLE),
    dependencies=[Documented],
)
def delete_connection(name: Name, tenant: Admin, shared: Shared) -> Response:
    """Forget a connection and its credentials. Refused while a job that has not ended names it.
    What jobs have written stays in the bucket and can no longer be fetched through this API."""
    _of(shared.deps).remove(tenant, name)
    return Response(status_code=204)


@router.post(
    "/{name}/test",
    operation_id="test_connection",
    summary="Test a connection",
    response_model=TryOut,
    responses=failures(
        "not_found", "connection_not_found", "location_not_allowed", "storage_unavailable", *_BODY
    ),
)
def try_connection(
    name: Name,
    tenant: Admin,
    shared: Shared,
    body: Annotated[
        TryRequest | None, Body(openapi_examples={"read_only": {"value": {"write": False}}})
    ] = None,
) -> Response:
    """List a prefix, then write, read and delete a small object there. The prefix is the first of
    the connection's unless you name another. A failed step is an answer (200) with the step's
    code; what the store itself said is never shown."""
    asked = body or TryRequest()
    connections = _of(shared.deps)
    prefix = (
        connections.get(tenant, name).place.prefixes[0] if asked.prefix is None else asked.prefix
    )
    return json_answer(
        TryOut.of(prefix, connections.attempt(tenant, name, prefix, write=asked.write))
    )
