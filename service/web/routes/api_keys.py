"""API keys of a tenant: make, list, rotate, revoke."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Path
from starlette.responses import Response

from service.domain.access import ApiKey
from service.usecases import keys
from service.web.answers import SecretAnswer, failures, json_answer
from service.web.auth import Admin, AdminCaller
from service.web.context import Shared
from service.web.idempotency import Documented, IdempotentRoute
from service.web.key_schemas import (
    ApiKeyOut,
    ApiKeyPage,
    ApiKeyRequest,
    RotateRequest,
    SecretApiKeyOut,
)
from service.web.routes.parameters import PageSize, PageToken

router = APIRouter(prefix="/v1/api_keys", tags=["api_keys"], route_class=IdempotentRoute)

_EXAMPLE: Final[dict[str, Any]] = {
    "name": "nightly pipeline",
    "scopes": ["jobs:read", "jobs:write"],
    "expire_time": "2027-01-01T00:00:00Z",
}
_REPEATABLE: Final = ("idempotency_key_reused", "idempotency_in_flight")
_BODY: Final = ("invalid_spec", "payload_too_large", "unsupported_media_type")


async def _key_id(
    key_id: Annotated[str, Path(description="The key's `id`.", examples=["0a1b2c3d4e5f"])],
) -> str:
    # What cannot be stored cannot be looked up either; nobody's key has such an id.
    return key_id if key_id.isascii() and key_id.isalnum() else "-"


KeyId = Annotated[str, Depends(_key_id)]


@router.post(
    "",
    operation_id="create_api_key",
    summary="Create an API key",
    status_code=201,
    response_model=SecretApiKeyOut,
    responses=failures(*_BODY, *_REPEATABLE),
    dependencies=[Documented],
)
def create_api_key(
    body: Annotated[ApiKeyRequest, Body(openapi_examples={"pipeline": {"value": _EXAMPLE}})],
    caller: AdminCaller,
    shared: Shared,
) -> Response:
    """A new key of your tenant. `secret` is what goes into `Authorization: Bearer`; it is shown
    this once and only its hash is kept. A scope that your own key lacks is refused."""
    deps = shared.deps
    made = keys.create(deps.keys, deps.clock, caller, body.name, body.scopes, body.expire_time)
    return _secret(*made, status=201)


@router.get(
    "",
    operation_id="list_api_keys",
    summary="List the API keys",
    response_model=ApiKeyPage,
    responses=failures("invalid_page_token", "invalid_spec"),
)
def list_api_keys(
    tenant: Admin, shared: Shared, page_size: PageSize = None, page_token: PageToken = None
) -> Response:
    """The keys of your tenant, also those that have expired or were revoked."""
    found, token = keys.list_page(shared.deps.keys, tenant, page_size, page_token)
    return json_answer(
        ApiKeyPage(api_keys=[ApiKeyOut.of(key) for key in found], next_page_token=token)
    )


@router.get(
    "/{key_id}",
    operation_id="get_api_key",
    summary="Get an API key",
    response_model=ApiKeyOut,
    responses=failures("not_found"),
)
def get_api_key(key_id: KeyId, tenant: Admin, shared: Shared) -> Response:
    """What a key allows, until when, and when it was last used."""
    return json_answer(ApiKeyOut.of(keys.get(shared.deps.keys, tenant, key_id)))


@router.post(
    "/{key_id}/rotate",
    operation_id="rotate_api_key",
    summary="Rotate an API key",
    response_model=SecretApiKeyOut,
    responses=failures("not_found", *_BODY, *_REPEATABLE),
    dependencies=[Documented],
)
def rotate_api_key(
    key_id: KeyId,
    caller: AdminCaller,
    shared: Shared,
    body: Annotated[
        RotateRequest | None, Body(openapi_examples={"an_hour": {"value": {"grace_s": 3600}}})
    ] = None,
) -> Response:
    """A new secret for the same key. The old one works for `grace_s` seconds more; an older one
    ends now. You must have every scope of the key."""
    grace = timedelta(seconds=(body or RotateRequest()).grace_s)
    return _secret(*keys.rotate(shared.deps.keys, caller, key_id, grace))


@router.post(
    "/{key_id}/revoke",
    operation_id="revoke_api_key",
    summary="Revoke an API key",
    response_model=ApiKeyOut,
    responses=failures("not_found", *_REPEATABLE),
    dependencies=[Documented],
)
def revoke_api_key(key_id: KeyId, tenant: Admin, shared: Shared) -> Response:
    """End a key at once, on every server, with all its secrets. It cannot be brought back. Safe to
    repeat."""
    return json_answer(ApiKeyOut.of(keys.revoke(shared.deps.keys, tenant, key_id)))


def _secret(key: ApiKey, secret: str, status: int = 200) -> Response:
    return SecretAnswer(
        SecretApiKeyOut.with_secret(key, secret),
        kept=SecretApiKeyOut.with_secret(key, None),
        status=status,
        headers={"Location": f"/v1/api_keys/{key.id}"},
    )
