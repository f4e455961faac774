"""Operations of `audit`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from arrowquant.http.calls import Call
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import AuditEvent, AuditEventPage


class AuditApi(SyncShell):
    """The operations of `audit`."""

    def list_audit_events(
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
        return self._send(
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
    ) -> Iterator[AuditEvent]:
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
