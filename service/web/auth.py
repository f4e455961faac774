"""Who asks: an API key in `Authorization: Bearer aq_...`, or a token of an identity provider in its
place, and what its scopes allow."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import Depends, Security
from fastapi.dependencies.models import Dependant
from fastapi.security import HTTPBearer, SecurityScopes
from fastapi.security.http import HTTPAuthorizationCredentials
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from service.domain.access import ALL_SCOPES, Principal
from service.domain.errors import ArrowQuantError
from service.web.context import Context, context_of

# The tenant of a service that runs without keys, for itself only.
LOCAL_TENANT: Final = "default"
MAX_KEY_CHARS: Final = 256
MAX_TOKEN_CHARS: Final = 8192
KEY_PREFIX: Final = "aq_"

# Shows the scheme in the OpenAPI document; the answer to a missing key is ours.
_bearer = HTTPBearer(
    auto_error=False,
    scheme_name="ApiKey",
    bearerFormat="aq_<id>_<secret>",
    description="An API key, made with `python -m service keys create` or `POST /v1/api_keys`, or a "
    "token of the identity provider that the service is set up with. What an operation asks for "
    "is listed beside it: `jobs:read`, `jobs:write`, `artifacts:read`, `admin` (implies these "
    "three) or `operator`.",
)


async def authenticate(request: Request) -> Principal:
    """Who sent a request, looked up and counted once. Raises unauthorized, rate_limited."""
    known = request.scope["state"].get("principal")
    if isinstance(known, Principal):
        return known
    context = context_of(request)
    principal = await run_in_threadpool(_principal_of, context, request)
    request.scope["state"] |= {"principal": principal, "tenant": principal.tenant}
    rate = await run_in_threadpool(context.limiter.count, principal.tenant)
    if rate is not None:
        request.scope["state"] |= {"rate": rate.headers(), "limited": rate.remaining < 0}
        rate.require()
    return principal


def scopes_of(dependant: Dependant) -> frozenset[str]:
    """All scopes that an operation asks for."""
    own = frozenset(dependant.own_oauth_scopes or ())
    return own.union(*(scopes_of(inner) for inner in dependant.dependencies))


def _principal_of(context: Context, request: Request) -> Principal:
    if not context.deps.settings.auth:
        return Principal(LOCAL_TENANT, "local", ALL_SCOPES)
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    text = text.strip()
    if scheme.lower() != "bearer" or not text:
        raise _unauthorized("the request has no API key")
    # One answer for unknown, revoked, expired and malformed keys: it helps nobody to know which.
    tokens = context.deps.tokens
    if tokens is not None and not text.startswith(KEY_PREFIX):
        principal = tokens.verify(text) if len(text) <= MAX_TOKEN_CHARS else None
        if principal is None:
            raise _unauthorized("the token is not valid")
        return principal
    key = context.deps.keys.find(text) if len(text) <= MAX_KEY_CHARS else None
    if key is None:
        raise _unauthorized("the API key is not valid")
    return Principal(key.tenant, f"key:{key.id}", key.scopes)


async def _principal(
    request: Request,
    scopes: SecurityScopes,
    _: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> Principal:
    principal = await authenticate(request)
    principal.require(scopes.scopes)
    return principal


async def _tenant(principal: Annotated[Principal, Depends(_principal)]) -> str:
    return principal.tenant


# The tenant of a caller who may do that. `Tenant` asks for a valid key and for no scope.
Tenant = Annotated[str, Depends(_tenant)]
JobsRead = Annotated[str, Security(_tenant, scopes=["jobs:read"])]
JobsWrite = Annotated[str, Security(_tenant, scopes=["jobs:write"])]
ArtifactsRead = Annotated[str, Security(_tenant, scopes=["artifacts:read"])]
# Keys, connections, webhooks and the log of one tenant.
Admin = Annotated[str, Security(_tenant, scopes=["admin"])]
# Workers, queues and the quotas of every tenant.
Operator = Annotated[str, Security(_tenant, scopes=["operator"])]
# Who exactly it is, for the operations of an admin.
AdminCaller = Annotated[Principal, Security(_principal, scopes=["admin"])]


def _unauthorized(detail: str) -> ArrowQuantError:
    return ArrowQuantError(
        "unauthorized", detail, "Send the header `Authorization: Bearer aq_...` with a valid key."
    )
