"""What surrounds every request: its id, its log line, the cap on its body, the last resort.

Plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import tracing
from service.domain.errors import ArrowQuantError
from service.web.errors import internal, problem
from service.web.metrics import route_of

log = structlog.get_logger("service.access")

_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
# Probes come every few seconds and say nothing.
_QUIET: Final = {"/healthz", "/readyz", "/metrics"}

# The API returns no markup: a browser that is led to it must not run or frame anything. Pages that
# do have markup (the dashboard) set their own policy.
_SECURITY: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Traced:
    """Continues the trace of whoever asks, or begins one: a span around the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _QUIET:
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(tracing.HEADER)
        facts = {"http.request.method": scope["method"], "url.path": scope["path"]}
        with tracing.span(
            scope["method"], parent=given, kind=tracing.SERVER, attributes=facts
        ) as span:

            async def sending(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        tracing.failed(span, str(message["status"]))
                await send(message)

            try:
                await self._app(scope, receive, sending)
            finally:
                span.set_attribute("http.route", route_of(scope))
                span.update_name(f"{scope['method']} {route_of(scope)}")


# What JSON Lines are called.
_LINES: Final = {"application/jsonl", "application/x-ndjson", "application/x-jsonlines"}


class Envelope:
    """Gives a request its id, answers what nobody caught, and logs one line when it is over."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _GIVEN_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.monotonic()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers.update(scope["state"].get("rate", {}))
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            try:
                await self._app(scope, receive, sending)
            except Exception:
                log.exception("unexpected error")
                if status:
                    raise  # half an answer is out: only closing the connection tells the client
                await internal(request_id, scope["path"])(scope, receive, sending)
            finally:
                if scope["path"] not in _QUIET:
                    log.info(
                        "request",
                        method=scope["method"],
                        path=scope["path"],
                        status=status,
                        ms=round(1000 * (time.monotonic() - started), 1),
                        tenant=scope["state"].get("tenant"),
                    )


class BodyCap:
    """Reads the whole body before anything looks at it, and refuses what is too large or not JSON.

    All bodies of this API are small JSON documents, so holding one costs little and a client that
    sends without end is cut off at the cap, whether it announced a length or not.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, streamed: Mapping[str, int] | None = None
    ) -> None:
        """streamed: paths whose bodies are JSON Lines, handed on as they come, and their caps"""
        self._app, self._max, self._streamed = app, max_bytes, dict(streamed or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if scope["path"] in self._streamed:
            await self._stream(scope, receive, send, headers)
            return
        announced = headers.get("content-length", "")
        body = b"" if announced == "0" else None
        error = self._too_large() if announced.isdigit() and int(announced) > self._max else None
        if body is None and error is None:
            body = await self._read(receive)
            error = self._too_large() if body is None else None
        if error is None and body:
            error = _not_json(headers)
        if error is not None:
            await _refuse(error, scope, receive, send)
            return
        await self._app(scope, _replay(body or b"", receive), send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        """Hand the body on as it comes, and break it off at the cap. Who asks is looked at first:
        what is wrong with the body is said when somebody begins to read it."""
        cap, size, ended = self._streamed[scope["path"]], 0, False
        announced = headers.get("content-length", "")
        error = _not_lines(headers)
        if error is None and announced.isdigit() and int(announced) > cap:
            error = _too_large(cap)

        async def counting() -> Message:
            nonlocal size, ended
            if error is not None:
                raise error
            message = await receive()
            size += len(message.get("body", b""))
            ended = ended or not message.get("more_body", False)
            if size > cap:
                raise _too_large(cap)
            return message

        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start" and not ended:
                # The rest of the body is not read: the connection cannot be used again.
                MutableHeaders(scope=message)["Connection"] = "close"
            await send(message)

        await self._app(scope, counting, closing)

    async def _read(self, receive: Receive) -> bytes | None:
        chunks: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b"".join(chunks)
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max:
                return None
            chunks.append(chunk)
            more = message.get("more_body", False)
        return b"".join(chunks)

    def _too_large(self) -> ArrowQuantError:
        return ArrowQuantError(
            "payload_too_large",
            f"the body has more than {self._max} bytes",
            "Requests name places; weights never pass through the API.",
        )


async def _refuse(error: ArrowQuantError, scope: Scope, receive: Receive, send: Send) -> None:
    response = problem(error, scope["state"]["request_id"], scope["path"])
    # The rest of the body is not read: the connection cannot be used again.
    response.headers["Connection"] = "close"
    await response(scope, receive, send)


def _too_large(cap: int) -> ArrowQuantError:
    return ArrowQuantError(
        "payload_too_large",
        f"the body has more than {cap} bytes",
        "Send it as several batches. Nothing was queued.",
    )


def _not_lines(headers: Headers) -> ArrowQuantError | None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if kind not in _LINES:
        detail = f"the Content-Type is {kind[:80] or 'missing'}, not application/jsonl"
    elif encoding != "identity":
        detail = f"Content-Encoding {encoding[:40]!r} is not accepted"
    else:
        return None
    hint = "Send plain JSON Lines as application/jsonl or application/x-ndjson."
    return ArrowQuantError("unsupported_media_type", detail, hint)


def _not_json(headers: Headers) -> ArrowQuantError | None:
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if kind != "application/json":
        detail = f"the Content-Type is {kind[:80] or 'missing'}, not application/json"
    elif encoding != "identity":
        detail = f"Content-Encoding {encoding[:40]!r} is not accepted"
    else:
        return None
    return ArrowQuantError("unsupported_media_type", detail, "Send plain JSON as application/json.")


def _replay(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if not sent:
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed
