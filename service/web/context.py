"""What the routes share: the ports, and what is made from them once per application."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from service.usecases.artifacts import Artifacts
from service.usecases.quotas import Limiter
from service.usecases.sweeper import Sweeper
from service.usecases.webhooks import WebhookDesk
from service.web.crowd import Streams
from service.web.metrics import Metrics
from service.web.watch import Watch
from service.wiring import Deps


@dataclass(frozen=True, slots=True)
class Context:
    """Made when the application starts."""

    deps: Deps
    artifacts: Artifacts
    watch: Watch
    webhooks: WebhookDesk
    batch_watch: Watch
    metrics: Metrics
    limiter: Limiter
    streams: Streams
    sweeper: Sweeper


def context_of(request: Request) -> Context:
    """The context of the application that serves this request."""
    return cast(Context, request.app.state.context)


Shared = Annotated[Context, Depends(context_of)]
