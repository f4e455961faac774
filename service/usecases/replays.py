"""Asking for an artifact to be made again, and what came of it."""

from __future__ import annotations

from typing import Final

from service.domain.errors import ArrowQuantError, FieldError
from service.domain.ids import new_id
from service.domain.job import PRIORITIES, JobRecord
from service.domain.ordering import NEWEST_FIRST
from service.domain.outputs import OutputSpec, to_json
from service.domain.places import Place, Source
from service.domain.ports import (
    Bell,
    Clock,
    Ledger,
    NewJob,
    ObjectStore,
    ObjectStores,
)
from service.domain.replay import (
    MAX_MANIFEST_BYTES,
    check_calibration,
    check_source,
    note,
    read_manifest,
)
from service.domain.report import MANIFEST_NAME
from service.usecases.bounded import Bounded, TookTooLong
from service.usecases.inspect_source import inspect
from service.usecases.jobs import JobFilter, list_jobs
from service.usecases.plan import calibrated, open_place, pointed
from service.usecases.submit import Accepted, ring
from service.usecases.which_output import one_output

_reading = Bounded(20.0, 16, "storage_unavailable", "reading the artifact's manifest")
_looking = Bounded(10.0, 16, "storage_unavailable", "reading the source's headers")
LABEL: Final = ("arrowquant/replay", "true")


def of_job(ledger: Ledger, tenant: str, job_id: str, output: str | None) -> tuple[Place, Source]:
    """The places of a job's artifact and of its source. Raises not_found."""
    job = ledger.get_job(job_id, tenant)
    which = one_output(job, output)
    place = Place.model_validate(
        {k: v for k, v in job.request["output"].items() if k in ("connection", "prefix")}
    )
    artifact = place.model_copy(update={"prefix": place.prefix + which.folder})
    return artifact, Source.model_validate(job.request["source"])


def create(
    stores: ObjectStores, ledger: Ledger, bell: Bell, tenant: str, artifact: Place, source: Source
) -> Accepted:
    """Read the manifest, look at the source, and queue the work. Raises not_found,
    invalid_artifact, source_changed."""
    manifest = read_manifest(_manifest(open_place(stores, tenant, artifact, "/artifact"), artifact))
    store = open_place(stores, tenant, source, "/source")
    try:
        found = _looking.call(lambda: inspect(store, source.prefix, ties=False))
        check_source(manifest.objects(), found.objects)
        named = manifest.recipe.resolved.calibration
        found = calibrated(stores, tenant, named, found, _looking)
        check_calibration(note(manifest).get("calibration"), found)
    except TookTooLong:
        pass  # slow is not wrong: the worker looks again
    except ArrowQuantError as error:
        raise pointed(error, "/source/prefix") from None
    job = NewJob(
        id=new_id("job"),
        tenant=tenant,
        name=f"replay of {artifact.prefix.rstrip('/')}"[:128],
        labels=dict([LABEL]),
        priority=PRIORITIES["low"],
        request={
            "source": source.model_dump(mode="json"),
            "output": artifact.model_dump(mode="json"),
        },
        resolved=to_json((OutputSpec("", manifest.recipe.resolved),)) | {"replay": note(manifest)},
        max_runtime_s=None,
    )
    return Accepted(ledger.create_job(job), ring(bell))


def get(ledger: Ledger, tenant: str, replay_id: str) -> JobRecord:
    """Raises not_found, also for a job that is no replay."""
    job = ledger.get_job(replay_id, tenant)
    if "replay" not in job.resolved:
        raise ArrowQuantError("not_found", "there is no such replay")
    return job


def list_page(
    ledger: Ledger, clock: Clock, tenant: str, size: int | None, token: str | None
) -> tuple[list[JobRecord], str | None]:
    """Replays, newest first."""
    wanted = JobFilter(labels=(LABEL,))
    found, token = list_jobs(ledger, clock, tenant, wanted, NEWEST_FIRST, size, token)
    return [job for job in found if "replay" in job.resolved], token


def _manifest(store: ObjectStore, artifact: Place) -> bytes:
    key = artifact.prefix + MANIFEST_NAME

    def read() -> bytes:
        info = store.stat(key)
        if info.size > MAX_MANIFEST_BYTES:
            raise ArrowQuantError(
                "invalid_artifact", f"the manifest has {info.size} bytes", where={"object": key}
            )
        return store.read(key, 0, info.size, info.etag)

    try:
        return _reading.call(read)
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        detail = "there is no artifact here"
        raise ArrowQuantError(
            "not_found", detail, errors=(FieldError("/artifact/prefix", detail),)
        ) from None
