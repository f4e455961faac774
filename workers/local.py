"""One job in this process, without a server: `arrowquant quantize`.

The same ledger, the same steps, the same loop; the ledger is a file of its own, named after the
request, so that the same command started again continues where it was killed.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from service.adapters.egress import Guard
from service.adapters.sql import SqlBatches, SqlIdempotencyStore, SqlJobLog, SqlKeyRing, SqlLedger
from service.adapters.sql.audit import SqlAuditLog
from service.adapters.sql.connections import SqlConnections
from service.adapters.sql.engine import make_engine, migrate
from service.adapters.sql.figures import SqlFigures
from service.adapters.sql.fleet import SqlFleet
from service.adapters.sql.outbox import SqlOutbox
from service.adapters.sql.quotas import SqlQuotas
from service.adapters.sql.recipes import SqlRecipeBook
from service.adapters.sql.secrets import SqlSecrets
from service.adapters.sql.webhooks import SqlWebhooks
from service.adapters.system_clock import SystemClock
from service.adapters.vault import AesGcmVault
from service.adapters.webhook_sender import HttpSender
from service.domain.egress import EgressPolicy
from service.domain.engine import versions
from service.domain.errors import ArrowQuantError
from service.domain.ids import new_id
from service.domain.job import TERMINAL, Event, JobRecord, JobState
from service.domain.limits import Limits
from service.domain.outputs import resolve_outputs, to_json
from service.domain.ports import JobQuery, NewJob, ObjectStore
from service.domain.quotas import NO_LIMITS
from service.domain.spec import JobRequest, PlanRequest, Recipe, canonical_json
from service.settings import Settings
from service.wiring import Deps
from workers import places
from workers.workshop import Workshop

TENANT = "local"
POLL_S = 0.2
WORKSHOPS = 2
EVENTS_AT_ONCE = 1000


class TwoPlaces:
    """The source, the output and the calibration file's place of one command, as connections."""

    def __init__(
        self, source: ObjectStore, output: ObjectStore, calibration: str | None = None
    ) -> None:
        self._stores = {"source": source, "output": output}
        if calibration is not None:
            self._stores["calibration"], _ = places.calibration(calibration)

    def names(self, tenant: str) -> list[str]:
        return sorted(self._stores)

    def open(self, tenant: str, connection: str) -> ObjectStore:
        if connection not in self._stores:
            raise ArrowQuantError(
                "connection_not_found",
                f"there is no connection {connection!r} without a server",
                "Name the calibration file with --calibration PATH.",
            )
        return self._stores[connection]

    def place(self, tenant: str, connection: str) -> str:
        return connection


class NoBell:
    """Nobody else listens."""

    def ring(self) -> None:
        return

    def check(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class LocalJob:
    """A job of this process and the means to work on it."""

    deps: Deps
    job_id: str
    ledger_file: Path

    def run(self) -> Iterator[JobRecord]:
        """Work in threads; yield the job as it goes on, and last as it ended.

        There are two: while one brings its part to the disk and accounts for it, the other one
        quantizes. They take turns with tiles in memory, so that both need no more than one does.
        """
        turn = threading.Lock()
        workers = [
            threading.Thread(target=self._work, args=(turn,), name="workshop", daemon=True)
            for _ in range(WORKSHOPS)
        ]
        for worker in workers:
            worker.start()
        for worker in workers:
            while worker.is_alive():
                yield self.deps.ledger.get_job(self.job_id)
                worker.join(POLL_S)
        yield self.deps.ledger.get_job(self.job_id)

    def news(self, after: int) -> list[Event]:
        """The events past this number, as many as are read at once."""
        return self.deps.ledger.events(self.job_id, after, EVENTS_AT_ONCE)

    def close(self) -> None:
        """Let go of the ledger. A job that has not ended goes on when it is opened again."""
        self.deps.close()

    def forget(self) -> None:
        """Close, and remove the ledger of a job that is over."""
        self.close()
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.ledger_file}{suffix}").unlink(missing_ok=True)

    def _work(self, turn: AbstractContextManager[object]) -> None:
        workshop = Workshop(self.deps, turn=turn)
        workshop.release_dead()
        pause = threading.Event()
        while self.deps.ledger.get_job(self.job_id).state not in TERMINAL:
            # Nothing to claim for a moment: another process holds it, or a retry is due later.
            if not workshop.run(self.job_id):
                pause.wait(POLL_S)
        workshop.run(self.job_id)  # what the job has replaced, or left half written


def plan_request(source: str, recipe: Recipe) -> tuple[ObjectStore, PlanRequest]:
    """The source's store, and a request to plan it."""
    store, place = places.source(source)
    return store, PlanRequest(source=place, recipe=recipe)


def open_job(
    settings: Settings,
    source: str,
    output: str,
    recipe: Recipe,
    limits: Limits,
    calibration: str | None = None,
    *,
    replace: bool,
) -> LocalJob:
    """Begin a job, or take up the one that an earlier, interrupted run of this command began."""
    source_store, planned = plan_request(source, recipe)
    output_store, destination = places.output(output, replace=replace)
    request = JobRequest(
        name=output.rstrip("/").rpartition("/")[2],
        source=planned.source,
        recipe=recipe,
        output=destination,
    )
    ledger_file = _ledger_file(settings, [source, output, *filter(None, [calibration])], request)
    settings = _within(settings, limits)
    stores = TwoPlaces(source_store, output_store, calibration)
    deps = _deps(settings, ledger_file, stores)
    job_id = _resume(deps) or _create(deps, request)
    return LocalJob(deps, job_id, ledger_file)


def _within(settings: Settings, limits: Limits) -> Settings:
    """The limits belong to this run, not to the job: a second try may be given more memory."""
    given = {
        "threads": limits.threads,
        "max_memory_bytes": limits.max_memory_bytes,
        "replaced_keep_s": 0,  # nobody is here later to tidy up
    }
    return settings.model_copy(update={key: v for key, v in given.items() if v is not None})


def _ledger_file(settings: Settings, given: list[str], request: JobRequest) -> Path:
    recipe = to_json(resolve_outputs(request.recipe))
    ends = [_absolute(place) for place in given]
    # Another version may write other bytes: it begins anew rather than going on.
    identity = canonical_json([*ends, recipe, request.output.if_exists, versions()])
    folder = settings.data_dir / "local"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{hashlib.sha256(identity).hexdigest()[:32]}.db"


def _absolute(place: str) -> str:
    return place if "://" in place else str(Path(place).absolute())


def _deps(settings: Settings, ledger_file: Path, stores: TwoPlaces) -> Deps:
    url = f"sqlite:///{ledger_file}"
    migrate(url)
    engine, clock = make_engine(url), SystemClock()
    vault = AesGcmVault(settings.secret_keys)
    ledger = SqlLedger(engine, clock, lease_s=settings.lease_s, max_attempts=settings.max_attempts)
    guard = Guard(EgressPolicy.of(settings.egress_allow))
    return Deps(
        settings=settings,
        ledger=ledger,
        batches=SqlBatches(engine, clock, ledger),
        recipes=SqlRecipeBook(engine, clock),
        keys=SqlKeyRing(engine, clock),
        quotas=SqlQuotas(engine, clock, NO_LIMITS),
        audit=SqlAuditLog(engine, clock, None),
        idempotency=SqlIdempotencyStore(engine, clock),
        stores=stores,
        bell=NoBell(),
        clock=clock,
        job_log=SqlJobLog(engine),
        figures=SqlFigures(engine, clock, settings.lease_s),
        webhooks=SqlWebhooks(engine, clock),
        outbox=SqlOutbox(engine, clock),
        sender=HttpSender(guard, clock, settings.webhook_timeout_s),
        vault=vault,
        egress=guard,
        fleet=SqlFleet(engine, clock, settings.lease_s),
        connections=SqlConnections(engine),
        sealed=SqlSecrets(engine, vault),
        cleanups=(engine.dispose,),
    )


def _resume(deps: Deps) -> str | None:
    """The unfinished job of this ledger, if there is one."""
    for job in deps.ledger.list_jobs(JobQuery(tenant=TENANT, limit=1)):
        if (job.error or {}).get("code") == "source_changed":
            return None  # its parts are of a source that is no more
        if job.state in (JobState.FAILED, JobState.CANCELLED):
            return deps.ledger.retry_job(job.id).id
        if job.state not in TERMINAL:
            return job.id
    return None


def _create(deps: Deps, request: JobRequest) -> str:
    job = NewJob(
        id=new_id("job"),
        tenant=TENANT,
        name=request.name,
        labels={},
        priority=1,
        request=request.model_dump(mode="json", exclude_unset=True),
        resolved=to_json(resolve_outputs(request.recipe)),
        max_runtime_s=request.limits.max_runtime_s,
    )
    return deps.ledger.create_job(job).id


def failure(job: JobRecord) -> ArrowQuantError:
    """A failed job's error as an exception."""
    error = job.error or {}
    return ArrowQuantError(
        error.get("code", "internal"),
        error.get("message", "the job ended without a reason"),
        error.get("hint", ""),
        error.get("where", {}),
    )
