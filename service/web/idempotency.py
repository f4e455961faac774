"""`Idempotency-Key`: a request that is sent again is answered with the first answer.

As in the IETF draft (draft-ietf-httpapi-idempotency-key-header): the same key with another body is
refused, and so is a second request while the first is still running.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, ClassVar, Final

from fastapi import Depends, Header
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from service.domain.errors import ArrowQuantError
from service.domain.ports import IdempotencyStore, StoredResponse
from service.web.answers import SecretAnswer
from service.web.auth import authenticate, scopes_of
from service.web.context import context_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
MAX_KEY_CHARS: Final = 255
_METHODS: Final = ("POST", "DELETE")
_KEPT_HEADERS: Final = ("content-type", "location", "retry-after")


async def _documented(
    idempotency_key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            min_length=1,
            max_length=MAX_KEY_CHARS,
            pattern=r"^[!-~]([ -~]*[!-~])?$",  # printable ASCII; spaces around it are not sent
            description="Any text of your own, for example a UUID. A repeated request with the "
            "same key and body is answered with the first answer and does nothing.",
        ),
    ] = None,
) -> None:
    """Only for the OpenAPI document; `IdempotentRoute` reads the header."""


Documented = Depends(_documented)


class IdempotentRoute(APIRoute):
    """Routes whose POSTs and DELETEs may be repeated under a key."""

    #: Whether bodies may hold secrets. A plain digest of a weak one could be searched.
    secret: ClassVar[bool] = False

    def get_route_handler(self) -> Handler:
        """The usual handler, behind the stored answers."""
        handle = super().get_route_handler()
        scopes = scopes_of(self.dependant)

        async def once(request: Request) -> Response:
            key = request.headers.get("idempotency-key")
            if request.method not in _METHODS or key is None:
                return await handle(request)
            # A stored answer is for those only who may ask.
            (await authenticate(request)).require(scopes)
            return await _once(request, key, handle, self.secret)

        return once


class SecretRoute(IdempotentRoute):
    """Routes whose bodies hold secrets: nothing that is kept of a request tells them."""

    secret = True


async def _once(request: Request, key: str, handle: Handler, secret: bool) -> Response:
    _check(key)
    tenant = (await authenticate(request)).tenant
    deps = context_of(request).deps
    store: IdempotencyStore = deps.idempotency
    path = request.url.path
    digest = deps.vault.fingerprint if secret else _plain_digest
    fingerprint = digest(_identity(request, await request.body()))
    known = await run_in_threadpool(store.begin, tenant, path, key, fingerprint)
    if known is not None:
        return _replayed(known, fingerprint)
    try:
        response = await handle(request)
    except BaseException:
        # Nothing was stored by the request: every use case checks first and stores last.
        await run_in_threadpool(store.forget, tenant, path, key)
        raise
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    body = response.kept if isinstance(response, SecretAnswer) else bytes(response.body)
    await run_in_threadpool(store.finish, tenant, path, key, response.status_code, headers, body)
    return response


def _check(key: str) -> None:
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise ArrowQuantError(
            "invalid_spec",
            f"the Idempotency-Key must be 1 to {MAX_KEY_CHARS} printable ASCII characters",
            "A UUID is a good key.",
        )


def _identity(request: Request, body: bytes) -> bytes:
    """All that decides what the request does: method, query and body, to the byte."""
    method = b"" if request.method == "POST" else request.method.encode() + b"\0"
    return method + request.url.query.encode() + b"\0" + body


def _plain_digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _replayed(known: StoredResponse, fingerprint: str) -> Response:
    if known.fingerprint != fingerprint:
        raise ArrowQuantError(
            "idempotency_key_reused",
            "this Idempotency-Key came with another request before",
            "Use a new key for a new request.",
        )
    if known.status is None:
        raise ArrowQuantError(
            "idempotency_in_flight",
            "the first request with this Idempotency-Key has not been answered yet",
            "Send it again in a second.",
        )
    return Response(known.body, known.status, known.headers | {"Idempotency-Replayed": "true"})
