"""The application: middleware, routes, and what has to be opened and closed around them."""

from __future__ import annotations

import operator
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool

from service import tracing
from service.domain.webhooks import Schedule
from service.settings import Settings
from service.usecases.artifacts import Artifacts
from service.usecases.courier import Courier
from service.usecases.quotas import Limiter
from service.usecases.sweeper import Sweeper
from service.usecases.webhooks import WebhookDesk
from service.web import errors, openapi
from service.web.audit import Audited
from service.web.context import Context
from service.web.crowd import Patience, Streams
from service.web.metrics import Measured, Metrics, serving
from service.web.middleware import BodyCap, Envelope, Traced
from service.web.routes import (
    api_keys,
    artifacts,
    audit,
    batches,
    connections,
    events,
    fleet,
    jobs,
    logs,
    metrics,
    plans,
    quotas,
    recipes,
    replays,
    system,
    tensors,
    webhooks,
)
from service.web.watch import Watch
from service.wiring import Deps, wire


def create_app(settings: Settings, make_deps: Callable[[Settings], Deps] = wire) -> FastAPI:
    """An application. Nothing is opened before its lifespan starts."""

    streams = Streams(settings.max_streams_per_tenant, settings.max_streams)
    measures = Metrics(lambda: streams.open)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as cleanups:
            tracing.start("arrowquant-api")
            cleanups.push_async_callback(run_in_threadpool, tracing.stop)
            deps = await run_in_threadpool(make_deps, settings)
            cleanups.push_async_callback(run_in_threadpool, deps.close)
            sweeper = Sweeper(deps.ledger, deps.bell, deps.fleet, also=[deps.batches.sweep])
            sweeper.start()
            cleanups.push_async_callback(run_in_threadpool, sweeper.stop)
            watch = Watch(deps.ledger.event_heads)
            watch.start()
            cleanups.push_async_callback(watch.stop)
            batch_watch = Watch(deps.batches.heads, news=operator.ne)
            batch_watch.start()
            cleanups.push_async_callback(batch_watch.stop)
            measures.watch(deps.figures)
            cleanups.enter_context(serving(measures, settings.metrics_host, settings.metrics_port))
            desk = WebhookDesk(deps.webhooks, deps.vault, deps.egress, deps.clock)
            courier = _courier(deps, desk)
            courier.start()
            cleanups.push_async_callback(run_in_threadpool, courier.stop)
            artifacts_of = Artifacts(deps.ledger, deps.stores)
            app.state.context = Context(
                deps,
                artifacts_of,
                watch,
                desk,
                batch_watch,
                measures,
                limiter=Limiter(deps.quotas),
                streams=streams,
                sweeper=sweeper,
            )
            yield

    app = FastAPI(
        title="ArrowQuant",
        version=system.VERSION,
        lifespan=lifespan,
        # The framework would begin spans of its own beside ours (service.web.middleware), and send
        # texts of exceptions, which may hold what must not leave.
        telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False},
        # Their pages load scripts from elsewhere; /openapi.json is all a tool needs.
        docs_url=None,
        redoc_url=None,
        # A redirect to another spelling of a path would drop the body of a POST in some clients.
        redirect_slashes=False,
    )
    for routes in (
        plans,
        batches,
        jobs,
        events,
        logs,
        tensors,
        artifacts,
        connections,
        api_keys,
        webhooks,
        quotas,
        recipes,
        replays,
        audit,
        fleet,
        system,
        metrics,
    ):
        app.include_router(routes.router)
    app.include_router(batches.uploading)
    errors.install(app)
    # The last one added is the outermost.
    streamed = {batches.uploading.prefix: settings.max_batch_bytes}
    app.add_middleware(BodyCap, max_bytes=settings.max_body_bytes, streamed=streamed)
    app.add_middleware(
        Patience, seconds=settings.client_timeout_s, max_requests=settings.max_requests
    )
    app.add_middleware(Audited)
    app.add_middleware(Envelope)
    app.add_middleware(Traced)
    app.add_middleware(Measured, metrics=measures)
    app.state.begin_closing = lambda: _release(app)
    app.openapi = lambda: openapi.document(app)  # type: ignore[method-assign]
    return app


def _courier(deps: Deps, desk: WebhookDesk) -> Courier:
    settings = deps.settings
    return Courier(
        deps.outbox,
        deps.sender,
        desk.open_secrets,
        deps.clock,
        Schedule(span_s=settings.webhook_retry_hours * 3600.0),
        at_once=settings.webhook_at_once,
        keep=timedelta(days=settings.webhook_keep_days),
    )


def _release(app: FastAPI) -> None:
    """Let go of whoever waits or listens, since the server is about to end."""
    context: Context | None = getattr(app.state, "context", None)
    if context is not None:
        context.watch.release()
