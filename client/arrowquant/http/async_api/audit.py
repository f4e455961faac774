"""Operations of `audit`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call
from arrowquant.http.types import AuditEvent, AuditEventPage


class AsyncAuditApi(AsyncShell):
    """The operations of `audit`, to be awaited."""

    async def list_audit_events(
        self,
        *,
        action: str | None = None,
        resource: str | None = None,
        subject: str | None = None,
        after: str | None = None,
        before: str | None = None,
        page_size: int | None = None,
        page_token: str | None = None,
    ) -> AuditEventPage:
        """List who changed what."""
        return await self._send(
            Call[AuditEventPage](
                "GET",
                "/v1/audit_events",
                {
                    "action": action,
                    "resource": resource,
                    "subject": subject,
                    "after": after,
                    "before": before,
                    "page_size": page_size,
                    "page_token": page_token,
                },
            )
        )

    def iter_audit_events(
        self,
        *,
        action: str | None = None,
        resource: str | None = None,
        subject: str | None = None,
        after: str | None = None,
        before: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[AuditEvent]:
        """List who changed what: all pages, or at most `limit` rows."""
        return self._pages(
            Call[Any](
                "GET",
                "/v1/audit_events",
                {
                    "action": action,
                    "resource": resource,
                    "subject": subject,
                    "after": after,
                    "before": before,
                },
            ),
            "audit_events",
            limit,
        )
