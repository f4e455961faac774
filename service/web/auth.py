"""Who asks: an API key in `Authorization: Bearer aq_...`, and the tenant it belongs to."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Security
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from service.domain.errors import ArrowQuantError
from service.web.context import Context, context_of

# The tenant of a service that runs without keys, for itself only.
LOCAL_TENANT: Final = "default"
MAX_KEY_CHARS: Final = 256

# Shows the scheme in the OpenAPI document; the answer to a missing key is ours.
_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="aq_<id>_<secret>",
    description="An API key, made with `python -m service keys create`.",
)


async def authenticate(request: Request) -> str:
    """The tenant of a request, looked up once. Raises unauthorized."""
    known = request.scope["state"].get("tenant")
    if known is not None:
        return str(known)
    context = context_of(request)
    tenant = LOCAL_TENANT
    if context.deps.settings.auth:
        tenant = await run_in_threadpool(_tenant_of_key, context, request)
    request.scope["state"]["tenant"] = tenant
    return tenant


def _tenant_of_key(context: Context, request: Request) -> str:
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise _unauthorized("the request has no API key")
    # One answer for unknown, revoked and malformed keys: it helps nobody to know which.
    key = context.deps.keys.find(text) if len(text) <= MAX_KEY_CHARS else None
    if key is None:
        raise _unauthorized("the API key is not valid")
    return key.tenant


async def _tenant(
    request: Request,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    return await authenticate(request)


# The tenant of a caller who may do that. `Tenant` asks for a valid key and for no scope.
Tenant = Annotated[str, Depends(_tenant)]
JobsRead = Annotated[str, Security(_tenant, scopes=["jobs:read"])]
JobsWrite = Annotated[str, Security(_tenant, scopes=["jobs:write"])]
ArtifactsRead = Annotated[str, Security(_tenant, scopes=["artifacts:read"])]
# Keys, connections, webhooks and the log of one tenant.
Admin = Annotated[str, Security(_tenant, scopes=["admin"])]
# Workers, queues and the quotas of every tenant.
Operator = Annotated[str, Security(_tenant, scopes=["operator"])]


def _unauthorized(detail: str) -> ArrowQuantError:
    return ArrowQuantError(
        "unauthorized", detail, "Send the header `Authorization: Bearer aq_...` with a valid key."
    )
