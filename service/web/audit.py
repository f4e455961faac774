"""Writes a line of the audit log for every changing request, before its answer goes out.

Whoever has the answer finds the line. A request without a valid key has no tenant to show it to: that
goes to the service's own log, as does a line that the database would not take, and what was refused
because there was too much of it, which must not become a flood of another kind.
"""

from __future__ import annotations

from typing import Final

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.access import Principal
from service.domain.audit import AuditEvent
from service.domain.errors import ArrowQuantError
from service.domain.ids import new_id

log = structlog.get_logger(__name__)

READING: Final = frozenset({"GET", "HEAD", "OPTIONS"})
# They are POSTs for their body's sake and change nothing.
HARMLESS: Final = frozenset({"create_plan"})


class Audited:
    """ASGI middleware, inside the one that names the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in READING:
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                await _note(scope, message)
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            # Nobody foresaw it, and the answer is made further out.
            await _note(scope, {"status": 500, "headers": []})
            raise


async def _note(scope: Scope, answer: Message) -> None:
    state = scope["state"]
    action = str(getattr(scope.get("route"), "operation_id", None) or scope["method"].lower())
    if action in HARMLESS or state.get("audited"):
        return
    state["audited"] = True
    made = Headers(raw=answer.get("headers", [])).get("location", "")
    facts = {
        "action": action,
        "resource": (made if made.startswith("/v1/") else scope["path"])[:512].replace("\0", ""),
        "status": answer["status"],
        "code": state.get("code"),
        "address": str((scope.get("client") or ("",))[0])[:64],
    }
    principal = state.get("principal")
    if not isinstance(principal, Principal) or state.get("limited"):
        if answer["status"] in (401, 403, 429):
            log.warning("change_refused", tenant=state.get("tenant"), **facts)
        return
    context = scope["app"].state.context
    event = AuditEvent(
        id=new_id("audit"),
        tenant=principal.tenant,
        time=context.deps.clock.now(),
        subject=principal.subject,
        request_id=state["request_id"],
        **facts,
    )
    try:
        await run_in_threadpool(context.deps.audit.write, event)
    except ArrowQuantError as error:
        who = {"tenant": event.tenant, "subject": event.subject}
        log.error("audit_not_written", why=str(error), **who, **facts)
