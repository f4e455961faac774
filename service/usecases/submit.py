"""Accepting a job: everything that can be known to be wrong is said now, not by a worker later."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from service import tracing
from service.domain.errors import ArrowQuantError, FieldError
from service.domain.ids import new_id
from service.domain.job import PRIORITIES, JobRecord, JobState, Progress
from service.domain.outputs import named, resolve_outputs, to_json
from service.domain.ports import Bell, Clock, Ledger, NewJob, ObjectStore, ObjectStores
from service.domain.report import MANIFEST_NAME
from service.domain.spec import JobRequest
from service.domain.webhooks import Webhooks
from service.usecases.bounded import Bounded, TookTooLong
from service.usecases.plan import open_place, plan_source, pointed

# Whoever submits waits for the checks, but not for long: a worker makes all of them again.
CHECK_S: Final = 10.0
_source = Bounded(CHECK_S, 32, "storage_unavailable", "reading the source's headers")
_output = Bounded(CHECK_S, 32, "storage_unavailable", "looking at the output prefix")


@dataclass(frozen=True, slots=True)
class Accepted:
    """A stored job, and why the workers could not be told at once, if so: they look by themselves."""

    job: JobRecord
    unrung: ArrowQuantError | None


def check(request: JobRequest, tenant: str, stores: ObjectStores, webhooks: Webhooks) -> NewJob:
    """The job as it would be stored. Raises what makes it impossible."""
    check_notify(request, lambda: endpoint_ids(webhooks, tenant))
    job = new_job(request, tenant, stores.place(tenant, request.output.connection))
    output = open_place(stores, tenant, request.output, "/output")
    source_bytes = None
    outputs = resolve_outputs(request.recipe)
    try:
        plan = plan_source(stores, tenant, request, _source, ties=False)
        source_bytes = sum(unit.source_bytes for unit in plan.units)
        if request.output.if_exists == "fail":
            for made in outputs:
                _nothing_there(output, request.output.prefix + made.folder + MANIFEST_NAME)
    except TookTooLong:
        pass  # slow is not wrong
    return replace(job, source_bytes=source_bytes)


def new_job(
    request: JobRequest, tenant: str, output_root: str, batch_id: str | None = None
) -> NewJob:
    """The job as it would be stored, judged by the request alone.

    output_root  what the output's connection means, see `ObjectStores.place`
    """
    _no_nul(request)
    if request.output.prefix.endswith(".safetensors"):
        raise _invalid("/output/prefix", "the output is a folder: it cannot end in .safetensors")
    return NewJob(
        id=new_id("job"),
        tenant=tenant,
        name=request.name,
        labels=dict(request.labels),
        priority=PRIORITIES[request.priority],
        request=request.model_dump(mode="json", exclude_unset=True),
        resolved=to_json(resolve_outputs(request.recipe)) | named(request.recipe),
        max_runtime_s=request.limits.max_runtime_s,
        max_pending_s=request.limits.max_pending_s,
        retain_days=request.retention.days if request.retention else None,
        output_root=output_root,
        retain_artifacts=request.retention is None or request.retention.artifacts == "keep",
        trace=tracing.traceparent(),
        batch_id=batch_id,
    )


def submit(
    request: JobRequest,
    tenant: str,
    stores: ObjectStores,
    webhooks: Webhooks,
    ledger: Ledger,
    bell: Bell,
) -> Accepted:
    """Check, store, ring: in that order, so that what was rung for is there."""
    job = ledger.create_job(check(request, tenant, stores, webhooks))
    return Accepted(job, ring(bell))


def ring(bell: Bell) -> ArrowQuantError | None:
    """Tell the workers. A broker that is down costs seconds, not jobs: they look by themselves."""
    try:
        bell.ring()
    except ArrowQuantError as error:
        return error
    return None


def preview(job: NewJob, clock: Clock, max_attempts: int) -> JobRecord:
    """The job that would be created, as it would be shown. Nothing is stored."""
    now = clock.now()
    return JobRecord(
        id=job.id,
        tenant=job.tenant,
        name=job.name,
        labels=job.labels,
        state=JobState.QUEUED,
        phase=None,
        attempt=1,
        priority=job.priority,
        request=job.request,
        resolved=job.resolved,
        progress=Progress(),
        error=None,
        warnings=[],
        summary=None,
        create_time=now,
        start_time=None,
        end_time=None,
        update_time=now,
        event_seq=0,
        batch_id=job.batch_id,
        trace=job.trace,
        queue_time=now,
        max_attempts=max_attempts,
    )


def _no_nul(request: JobRequest) -> None:
    """PostgreSQL stores no U+0000, and no name has a use for it."""
    for pointer, text in _texts(request.model_dump(mode="json"), ""):
        if "\0" in text:
            raise _invalid(pointer, "the character U+0000 is not allowed")


def endpoint_ids(webhooks: Webhooks, tenant: str) -> frozenset[str]:
    """The webhook endpoints that a job of a tenant may name."""
    return frozenset(endpoint.id for endpoint in webhooks.list(tenant))


def check_notify(request: JobRequest, known_ids: Callable[[], frozenset[str]]) -> None:
    """Raises invalid_spec for a webhook endpoint that is not there."""
    if not request.notify:
        return
    known = known_ids()
    wrong = tuple(
        FieldError(f"/notify/{number}/webhook_endpoint", "there is no such webhook endpoint")
        for number, named in enumerate(request.notify)
        if named.webhook_endpoint not in known
    )
    if wrong:
        raise ArrowQuantError(
            "invalid_spec",
            f"{wrong[0].pointer}: {wrong[0].detail}",
            "See GET /v1/webhook_endpoints.",
            errors=wrong,
        )


def _texts(value: Any, pointer: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield pointer, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield pointer, key
            yield from _texts(item, f"{pointer}/{key}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _texts(item, f"{pointer}/{number}")


def _invalid(pointer: str, detail: str) -> ArrowQuantError:
    return ArrowQuantError("invalid_spec", detail, errors=(FieldError(pointer, detail),))


def _nothing_there(output: ObjectStore, manifest: str) -> None:
    """Raises output_exists if there is a manifest."""
    try:
        _output.call(lambda: output.stat(manifest))
    except ArrowQuantError as error:
        if error.code == "source_not_found":
            return
        raise pointed(error, "/output/prefix") from None
    detail = f"an artifact is there already: {manifest}"
    raise ArrowQuantError(
        "output_exists",
        detail,
        "Choose another prefix, or set output.if_exists to 'replace'.",
        {"object": manifest},
        (FieldError("/output/prefix", detail),),
    )
