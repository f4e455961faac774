"""`Idempotency-Key`: a request that is sent again is answered with the first answer.

As in the IETF draft (draft-ietf-httpapi-idempotency-key-header): the same key with another body is
refused, and so is a second request while the first is still running.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, ClassVar, Final

from fastapi import Depends, Header
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from service.domain.errors import ArrowQuantError
from service.domain.ports import IdempotencyStore, StoredResponse
from service.web.answers import SecretAnswer
from service.web.auth import authenticate, scopes_of
from service.web.context import context_of

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Record = Callable[[Callable[..., Any]], Awaitable[Any]]
MAX_KEY_CHARS: Final = 255
# Stands for the fingerprint of a body that is still coming in.
_STREAMED: Final = "streamed"
_RENEW_S: Final = 20.0
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

    async def once(self, request: Request, key: str, handle: Handler) -> Response:
        """Answer a request with a key."""
        return await _once(request, key, handle, self.secret)

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
            return await self.once(request, key, handle)

        return once


class SecretRoute(IdempotentRoute):
    """Routes whose bodies hold secrets: nothing that is kept of a request tells them."""

    secret = True


class StreamedRoute(IdempotentRoute):
    """The same where the body is read as it comes, and known only when it has."""

    async def once(self, request: Request, key: str, handle: Handler) -> Response:
        """Answer a request with a key."""
        return await _once_streamed(request, key, handle)


async def _once(request: Request, key: str, handle: Handler, secret: bool) -> Response:
    record = await _record(request, key)
    digest = context_of(request).deps.vault.fingerprint if secret else _plain_digest
    fingerprint = digest(_identity(request, await request.body()))
    known = await record(lambda store, *this: store.begin(*this, fingerprint))
    if known is not None:
        return _replayed(known, fingerprint)
    return await _answered(record, handle(request))


async def _once_streamed(request: Request, key: str, handle: Handler) -> Response:
    record = await _record(request, key)
    digest = hashlib.sha256(_prefix(request))

    async def hashing() -> Message:
        message = await request.receive()
        digest.update(message.get("body", b""))
        return message

    known = await record(lambda store, *this: store.begin(*this, _STREAMED))
    if known is not None:
        if known.status is None:
            raise _in_flight()
        while (await hashing()).get("more_body", False):
            pass
        return _replayed(known, digest.hexdigest())
    renewing = asyncio.create_task(_renew(record))
    try:
        handled = handle(Request(request.scope, hashing))
        return await _answered(record, handled, digest.hexdigest)
    finally:
        renewing.cancel()


async def _record(request: Request, key: str) -> Record:
    """Calls of the store about this request."""
    _check(key)
    tenant = (await authenticate(request)).tenant
    store: IdempotencyStore = context_of(request).deps.idempotency

    async def call(what: Callable[..., Any]) -> Any:
        return await run_in_threadpool(what, store, tenant, request.url.path, key)

    return call


async def _answered(
    record: Record,
    handled: Awaitable[Response],
    fingerprint: Callable[[], str | None] = lambda: None,
) -> Response:
    """The answer, kept."""
    try:
        response = await handled
    except BaseException:
        # Nothing was stored by the request: every use case checks first and stores last.
        await record(lambda store, *this: store.forget(*this))
        raise
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    body = response.kept if isinstance(response, SecretAnswer) else bytes(response.body)
    kept = (response.status_code, headers, body, fingerprint())
    await record(lambda store, *this: store.finish(*this, *kept))
    return response


async def _renew(record: Record) -> None:
    """As long as an upload takes, it is not taken for that of a process that died."""
    while True:
        await asyncio.sleep(_RENEW_S)
        await record(lambda store, *this: store.renew(*this))


def _check(key: str) -> None:
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise ArrowQuantError(
            "invalid_spec",
            f"the Idempotency-Key must be 1 to {MAX_KEY_CHARS} printable ASCII characters",
            "A UUID is a good key.",
        )


def _prefix(request: Request) -> bytes:
    method = b"" if request.method == "POST" else request.method.encode() + b"\0"
    return method + request.url.query.encode() + b"\0"


def _identity(request: Request, body: bytes) -> bytes:
    """All that decides what the request does: method, query and body, to the byte."""
    return _prefix(request) + body


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
        raise _in_flight()
    return Response(known.body, known.status, known.headers | {"Idempotency-Replayed": "true"})


def _in_flight() -> ArrowQuantError:
    return ArrowQuantError(
        "idempotency_in_flight",
        "the first request with this Idempotency-Key has not been answered yet",
        "Send it again in a second.",
    )
