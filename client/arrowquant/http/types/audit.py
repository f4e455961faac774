"""Types of audit.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import TypedDict


class AuditEvent(TypedDict):
    """One changing request. `action` is the operation's id, `resource` the path of what was
    made or asked for, `subject` the key (`key:ID`) or the token's subject (`oidc:...`).
    """

    id: str
    time: str
    subject: str
    action: str
    resource: str
    status: int
    code: str | None
    request_id: str
    address: str


class AuditEventPage(TypedDict):
    """Events, newest first. With a `next_page_token` there are more."""

    audit_events: list[AuditEvent]
    next_page_token: str | None
