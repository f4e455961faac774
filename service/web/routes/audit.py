"""The audit log of a tenant."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from service.domain.audit import AuditQuery
from service.usecases import audit
from service.web.answers import failures, json_answer
from service.web.auth import Admin
from service.web.context import Shared
from service.web.routes.parameters import PageSize, PageToken
from service.web.schemas import Out
from service.web.times import Moment

router = APIRouter(prefix="/v1/audit_events", tags=["audit"])
_PLAIN = r"^[^\x00]*$"


class AuditEventOut(Out):
    """One changing request. `action` is the operation's id, `resource` the path of what was made or
    asked for, `subject` the key (`key:ID`) or the token's subject (`oidc:...`)."""

    id: str
    time: datetime
    subject: str
    action: str
    resource: str
    status: int
    code: str | None
    request_id: str
    address: str


class AuditEventPage(Out):
    """Events, newest first. With a `next_page_token` there are more."""

    audit_events: list[AuditEventOut]
    next_page_token: str | None


@router.get(
    "",
    operation_id="list_audit_events",
    summary="List who changed what",
    response_model=AuditEventPage,
    responses=failures("invalid_page_token", "invalid_spec"),
)
def list_audit_events(
    tenant: Admin,
    shared: Shared,
    action: Annotated[
        str | None, Query(max_length=64, pattern=_PLAIN, description="An operation's id.")
    ] = None,
    resource: Annotated[
        str | None, Query(max_length=512, pattern=_PLAIN, description="A path, such as a job's.")
    ] = None,
    subject: Annotated[
        str | None, Query(max_length=256, pattern=_PLAIN, description="`key:ID` or `oidc:...`.")
    ] = None,
    after: Annotated[Moment | None, Query(description="RFC 3339: only later ones.")] = None,
    before: Annotated[Moment | None, Query(description="RFC 3339: only earlier ones.")] = None,
    page_size: PageSize = None,
    page_token: PageToken = None,
) -> Response:
    """Every changing request to your tenant, also those that were refused: who, what, when, from
    where, and how it ended. Bodies and secrets are never in it."""
    wanted = AuditQuery(
        tenant=tenant,
        action=action,
        resource=resource,
        subject=subject,
        after_time=after and after.astimezone(UTC),
        before_time=before and before.astimezone(UTC),
    )
    found, token = audit.list_page(shared.deps.audit, wanted, page_size, page_token)
    shown = [AuditEventOut.model_validate(event) for event in found]
    return json_answer(AuditEventPage(audit_events=shown, next_page_token=token))
