"""Plans: what a job would do, before it is one."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Body
from starlette.responses import Response

from service.usecases.plan import announce
from service.usecases.recipes import expanded
from service.web.answers import failures, json_answer
from service.web.auth import JobsRead
from service.web.context import Shared
from service.web.plan_schemas import PlanOut
from service.web.schemas import PlanBody

router = APIRouter(prefix="/v1/plans", tags=["plans"])

EXAMPLE: Final[dict[str, Any]] = {
    "source": {"connection": "models", "prefix": "dream-7b/"},
    "recipe": {"profile": "local", "rules": [{"match": "*.norm.*", "action": "keep"}]},
}
SOURCE_FAILURES: Final = (
    "invalid_spec",
    "payload_too_large",
    "unsupported_media_type",
    "connection_not_found",
    "location_not_allowed",
    "source_not_found",
    "source_access_denied",
    "source_changed",
    "unsupported_format",
    "invalid_safetensors_header",
    "invalid_index",
    "tensor_missing_in_index",
    "unsupported_dtype",
    "rule_matched_nothing",
    "storage_unavailable",
    "storage_throttled",
    "storage_timeout",
    "storage_access_denied",
)


@router.post(
    "",
    operation_id="create_plan",
    summary="Plan a job",
    response_model=PlanOut,
    responses=failures(*SOURCE_FAILURES),
)
def create_plan(
    body: Annotated[PlanBody, Body(openapi_examples={"local": {"value": EXAMPLE}})],
    tenant: JobsRead,
    shared: Shared,
) -> Response:
    """Read the headers of the source (never its weights) and say what a job would do: the exact
    bytes of the artifact, and for every tensor what happens to it and why. Nothing is stored, so
    this may be repeated freely; it is the same function as `arrowquant plan`."""
    body = expanded(body, shared.deps.recipes, tenant)
    return json_answer(announce(shared.deps.stores, tenant, body))
