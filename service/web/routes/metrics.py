"""The figures that a monitoring system collects."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from service.web.answers import failures
from service.web.auth import Operator
from service.web.context import Shared

router = APIRouter(tags=["system"])


@router.get(
    "/metrics",
    operation_id="get_metrics",
    summary="Get metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Prometheus's text format.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
        },
        **failures(),
    },
)
def get_metrics(_: Operator, shared: Shared) -> Response:
    """Requests, jobs, units and leases of the whole service, in Prometheus's text format. It shows
    counts of every tenant, so it needs the scope `operator`; with `ARROWQUANT_METRICS_PORT` the
    same is served without a key on a port of its own."""
    return Response(generate_latest(shared.metrics.registry), media_type=CONTENT_TYPE_LATEST)
