"""What the service is, what it can do, and whether it is well."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version
from typing import Final

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter
from starlette.responses import Response

from service.domain import schemes
from service.domain.profiles import LADDER, PROFILES, ROLE_FLOORS, Role
from service.domain.spec import Recipe
from service.domain.treatment import QUANTIZED_DTYPES
from service.usecases import health
from service.web.answers import failures, json_answer
from service.web.auth import Tenant
from service.web.context import Context, Shared
from service.web.plan_schemas import GateOut, ProfileOut, SchemeLimitsOut, SchemeOut, SchemesOut
from service.web.schemas import Out

router = APIRouter(tags=["system"])
VERSION: Final = version("arrowquant-server")


class HealthOut(Out):
    """The process runs."""

    status: str


class CheckOut(Out):
    """One part that the service needs. `error` is a code of the list in the documentation. Of parts
    that are asked, `latency_ms` is how long they took; of those that are watched, `age_s` is how long
    ago the last sign was: of `sweeper` since it last looked for forgotten work, of `leases` the longest
    since a worker that holds a unit was heard of."""

    name: str
    status: str
    error: str | None
    latency_ms: float | None
    age_s: float | None


class ReadyOut(Out):
    """`ready`, `degraded` (the broker is away: jobs are accepted and start a little later) or
    `unavailable` (the database is away: nothing can be answered)."""

    status: str
    checks: list[CheckOut]


class VersionOut(Out):
    """The version of the service and of its API."""

    version: str
    api: str


@router.get(
    "/healthz",
    operation_id="healthz",
    summary="Is the process up",
    response_model=HealthOut,
    responses=failures(always=("internal",)),
)
async def healthz() -> Response:
    """Answers as long as the process serves requests. It asks nobody else: a restart would not
    bring back a database."""
    return json_answer(HealthOut(status="ok"))


@router.get(
    "/readyz",
    operation_id="readyz",
    summary="Can requests be served",
    response_model=ReadyOut,
    responses={
        503: {"description": "The database is away.", "model": ReadyOut},
        **failures(always=("internal",)),
    },
)
async def readyz(shared: Shared) -> Response:
    """Asks the database and the broker. Without the database the service is not ready (503).
    Without the broker it is: jobs are stored, and the workers find them by themselves."""
    # In threads of its own: those of requests may all be waiting for a database that hangs.
    checks = await run_sync(_checks, shared, limiter=_probes())
    away = {check.name for check in checks if check.error}
    status = "unavailable" if "database" in away else "degraded" if away else "ready"
    return json_answer(ReadyOut(status=status, checks=checks), 503 if "database" in away else 200)


@cache
def _probes() -> CapacityLimiter:
    return CapacityLimiter(4)


def _checks(shared: Context) -> list[CheckOut]:
    asked = [
        CheckOut(
            name=check.name,
            status="error" if check.error else "ok",
            error=check.error,
            latency_ms=check.latency_ms,
            age_s=None,
        )
        for check in health.check(shared.deps.ledger, shared.deps.bell)
    ]
    ages = {"sweeper": shared.sweeper.age_s}
    if not asked[0].error and (figures := shared.metrics.figures()) is not None:
        ages["leases"] = figures.lease_age_s
    return asked + [
        CheckOut(name=name, status="ok", error=None, latency_ms=None, age_s=round(age, 1))
        for name, age in ages.items()
    ]


@router.get(
    "/version",
    operation_id="get_version",
    summary="Get the version",
    response_model=VersionOut,
    responses=failures(always=("internal",)),
)
async def get_version() -> Response:
    """The version of the service and of its API."""
    return json_answer(VersionOut(version=VERSION, api="v1"))


@router.get(
    "/v1/schemes",
    operation_id="get_schemes",
    summary="Get what can be asked for",
    response_model=SchemesOut,
    responses=failures(),
)
def get_schemes(_: Tenant) -> Response:
    """Every scheme that a recipe may ask for, the profiles with their defaults, the quality gates,
    what becomes of each role, limits, and the JSON Schema of a recipe. All of it comes from what
    requests are checked with: what is listed is accepted, what is not is refused."""
    return json_answer(
        SchemesOut(
            schemes=[SchemeOut.model_validate(scheme) for scheme in schemes.schemes()],
            limits=SchemeLimitsOut(**schemes.limits()),
            kept_roles={Role(role): why for role, why in schemes.kept_roles().items()},
            roles=list(Role),
            profiles={name: ProfileOut.model_validate(p) for name, p in PROFILES.items()},
            bits=list(schemes.BITS),
            group_sizes=list(schemes.GROUP_SIZES),
            methods=list(schemes.METHODS),
            granularities=list(schemes.GRANULARITIES),
            on_miss=list(schemes.ON_MISS),
            ladder=list(LADDER),
            gates={bits: GateOut(**gate) for bits, gate in schemes.gates().items()},
            role_floors=dict(ROLE_FLOORS),
            source_dtypes=sorted(QUANTIZED_DTYPES),
            recipe_schema=Recipe.model_json_schema(),
        )
    )
