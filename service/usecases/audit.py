"""Reading the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace

from service.domain.audit import AuditEvent, AuditLog, AuditQuery
from service.usecases.paging import page_position, page_size, page_token


def list_page(
    log: AuditLog, wanted: AuditQuery, size: int | None, token: str | None
) -> tuple[Sequence[AuditEvent], str | None]:
    """A page of events, newest first, and the token of the next one."""
    filters = {k: v for k, v in asdict(wanted).items() if k not in ("before", "limit")}
    limit = page_size(size)
    before = page_position(token, filters, str) if token else None
    found = log.list(replace(wanted, before=before, limit=limit + 1))
    if len(found) <= limit:
        return found, None
    return found[:limit], page_token(found[limit - 1].id, filters)
