"""Who changed what: one line for every changing request of a tenant, also for those refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """One request. It holds no body, no header and no secret.

    action    the operation's id in the OpenAPI document, such as `cancel_job`
    resource  the path of what was made, or else of what was asked for
    status    the HTTP status of the answer, and `code` the error's, if it is one
    address   the client's, as the server saw it
    """

    id: str
    tenant: str
    time: datetime
    subject: str
    action: str
    resource: str
    status: int
    code: str | None
    request_id: str
    address: str


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """A page of events, newest first. `before` is the id the page ends before."""

    tenant: str
    action: str | None = None
    resource: str | None = None
    subject: str | None = None
    after_time: datetime | None = None
    before_time: datetime | None = None
    before: str | None = None
    limit: int = 50


class AuditLog(Protocol):
    """The lines, kept as long as the settings say."""

    def write(self, event: AuditEvent) -> None: ...

    def list(self, query: AuditQuery) -> Sequence[AuditEvent]: ...
