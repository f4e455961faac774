"""What tenants may have, and what they had."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Depends, Path, Query
from starlette.responses import Response

from service.domain.access import TENANT_FORM
from service.domain.errors import ArrowQuantError
from service.usecases import quotas
from service.web.answers import failures, json_answer
from service.web.auth import JobsRead, Operator
from service.web.context import Shared
from service.web.quota_schemas import (
    DailyUsageOut,
    LimitsOut,
    QuotaOut,
    QuotaOverrides,
    TenantQuotaOut,
)
from service.web.times import Day

router = APIRouter(prefix="/v1", tags=["quotas"])
_EXAMPLE: Final[dict[str, Any]] = {"running_jobs": 4, "bytes_per_day": 2_000_000_000_000}


async def _tenant_name(
    tenant: Annotated[str, Path(description="The tenant's name.", examples=["acme"])],
) -> str:
    if TENANT_FORM.fullmatch(tenant) is None:
        raise ArrowQuantError("not_found", "no tenant can have this name")
    return tenant


TenantName = Annotated[str, Depends(_tenant_name)]


@router.get(
    "/quota",
    operation_id="get_quota",
    summary="Get your quota",
    response_model=QuotaOut,
    responses=failures(),
)
def get_quota(tenant: JobsRead, shared: Shared) -> Response:
    """What your tenant may have at once and in a day, and what it has."""
    store = shared.deps.quotas
    return json_answer(QuotaOut.of(store.of(tenant), store.standing(tenant)))


@router.get(
    "/usage",
    operation_id="get_usage",
    summary="Get your usage",
    response_model=DailyUsageOut,
    responses=failures("invalid_spec"),
)
def get_usage(
    tenant: JobsRead,
    shared: Shared,
    first: Annotated[
        Day | None, Query(alias="from", description="The first day; thirty days if not given.")
    ] = None,
    last: Annotated[Day | None, Query(alias="to", description="The last day; today.")] = None,
) -> Response:
    """Jobs and bytes of your tenant by day (UTC), at most a year. Days without any are left out."""
    deps = shared.deps
    return json_answer(
        DailyUsageOut.of(list(quotas.usage(deps.quotas, deps.clock, tenant, first, last)))
    )


@router.get(
    "/quotas/{tenant}",
    operation_id="get_tenant_quota",
    summary="Get the quota of a tenant",
    response_model=TenantQuotaOut,
    responses=failures("not_found"),
)
def get_tenant_quota(_: Operator, tenant: TenantName, shared: Shared) -> Response:
    """The limits that hold for a tenant; those in `overrides` are its own, the others the
    service's defaults."""
    own = shared.deps.quotas.overrides(tenant)
    return _shown(tenant, LimitsOut.model_validate(shared.deps.quotas.of(tenant)), own)


@router.put(
    "/quotas/{tenant}",
    operation_id="set_tenant_quota",
    summary="Set the quota of a tenant",
    response_model=TenantQuotaOut,
    responses=failures("not_found", "invalid_spec", "payload_too_large", "unsupported_media_type"),
)
def set_tenant_quota(
    _: Operator,
    tenant: TenantName,
    body: Annotated[QuotaOverrides, Body(openapi_examples={"more": {"value": _EXAMPLE}})],
    shared: Shared,
) -> Response:
    """Replace the limits that a tenant has of its own. What is left out is the default's again,
    null is no limit, an empty object takes all of them back. The limits of jobs and bytes hold at
    once, that of requests within seconds. Nothing that was accepted is taken away."""
    own = body.model_dump(exclude_unset=True)
    return _shown(tenant, LimitsOut.model_validate(shared.deps.quotas.override(tenant, own)), own)


def _shown(tenant: str, limits: LimitsOut, own: dict[str, int | None]) -> Response:
    return json_answer(TenantQuotaOut(tenant=tenant, limits=limits, overrides=own))
