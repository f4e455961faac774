"""The worker's loop: claim, do, repeat, until the ledger has nothing left.

It runs in a Celery pool process when the bell rings, and in the command line's own process for
`arrowquant quantize`. All recovery is here: what can be tried again is released with a delay, what
cannot fails its job, and a lost lease is simply left to whoever has it now.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import psutil
import structlog

from service import tracing
from service.domain.engine import versions
from service.domain.errors import ArrowQuantError, LeaseLost
from service.domain.job import Claim, UnitKind, Worker
from service.domain.profiles import PROFILES
from service.wiring import Deps
from workers import counters
from workers.job import JobContext, PlanCache
from workers.lease import Interrupted, Lease
from workers.steps import allocate, analyze, cleanup, compare, plan, publish, quantize

log = structlog.get_logger(__name__)

MAX_DELAY_S = 60.0
MAX_RETRIES = 12
MAX_TIDY_DELAY_S = 1200.0


def this_worker() -> Worker:
    """Who this process is. The host includes the pid namespace, so that containers which share
    a host name never take each other's processes for dead ones."""
    pids = Path("/proc/self/ns/pid")
    namespace = pids.stat().st_ino if pids.exists() else 0
    host = f"{socket.gethostname()}/{namespace}"
    started = int(psutil.Process().create_time() * 1000)
    return Worker(f"{host}:{os.getpid()}:{started}", host, os.getpid())


class Workshop:
    """One process's place of work.

    interrupted  whether even the unit in hand is to be given back, asked between tiles
    progress     called with every step of work (workers.pulse)
    turn         held while a unit has tiles in memory; for two of them in one process
    """

    def __init__(
        self,
        deps: Deps,
        interrupted: Callable[[], bool] = lambda: False,
        progress: Callable[[], None] = lambda: None,
        turn: AbstractContextManager[object] | None = None,
    ) -> None:
        self._deps = deps
        self._turn = turn or contextlib.nullcontext()
        self._interrupted = interrupted
        self._worker = this_worker()
        self._plans = PlanCache()
        self._progress = progress

    @property
    def deps(self) -> Deps:
        """What it was made with."""
        return self._deps

    @property
    def worker(self) -> Worker:
        """Who claims here."""
        return self._worker

    def release_dead(self) -> int:
        """Free what processes of this host left behind when they were killed."""
        return self._deps.ledger.release_dead(self._worker.host, psutil.pids())

    def run(
        self,
        job_id: str | None = None,
        stop: Callable[[], bool] = lambda: False,
        most: int | None = None,
    ) -> int:
        """Work until nothing is claimable, or `most` units were taken; how many were."""
        taken = 0
        while taken != most and not stop():
            claim = self._deps.ledger.claim(self._worker, job_id)
            if claim is None:
                break
            taken += 1
            if job_id is None:
                self.ring_if_needed()
            self.work_on(claim)
        return taken

    def work_on(self, claim: Claim) -> None:
        """Do one unit and account for how it ended."""
        bound = {"job_id": claim.job_id, "unit": f"{claim.kind.value}:{claim.seq}"}
        facts: tracing.Attributes = {
            "job.id": claim.job_id,
            "unit.seq": claim.seq,
            "unit.attempt": claim.attempt,
        }
        ring = tracing.traceparent()
        with (
            structlog.contextvars.bound_contextvars(**bound, tenant=claim.tenant),
            tracing.span(
                f"unit {claim.kind.value}",
                parent=claim.trace,
                kind=tracing.CONSUMER,
                attributes=facts,
                links=[ring] if ring else [],
            ) as span,
        ):
            self._progress()
            outcome = self._outcome(claim)
            if outcome != "done":
                tracing.failed(span, outcome)
            counters.units.labels(claim.kind.value, outcome).inc()

    def _outcome(self, claim: Claim) -> str:
        """Do it, and say in one word how it ended; the rest is in the ledger by then."""
        started = time.monotonic()
        log.info("unit_claimed", fence=claim.fence, attempt=claim.attempt)
        try:
            self._do(claim)
        except LeaseLost as error:
            log.info("lease_lost", reason=str(error))
            return "lost"
        except Interrupted:
            self._give_back(claim)
            return "given_back"
        except ArrowQuantError as error:
            return self._failed(claim, error)
        except MemoryError:
            return self._failed(claim, _out_of_memory())
        except Exception as error:
            log.exception("unit_crashed")
            return self._failed(claim, _internal(error))
        log.info("unit_done", seconds=round(time.monotonic() - started, 3))
        return "done"

    def _do(self, claim: Claim) -> None:
        ledger, settings = self._deps.ledger, self._deps.settings
        context = JobContext.of(claim, self._deps.stores)
        lease = Lease(
            ledger,
            claim,
            settings.heartbeat_s,
            settings.lease_s / 2,
            self._interrupted,
            self._progress,
            lambda: context.source.bytes_read,
            context.moved,
        )
        with lease:
            _check_engine(claim)
            match claim.kind:
                case UnitKind.PLAN:
                    plan.run(context, ledger, lease)
                case UnitKind.ANALYZE:
                    whole = self._plans.plan(context)
                    threads, memory = self._threads(context), self._memory(context)
                    analyze.run(context, ledger, lease, whole, threads, memory, self._turn)
                case UnitKind.ALLOCATE:
                    allocate.run(context, ledger, lease, self._plans.plan(context))
                case UnitKind.QUANTIZE:
                    whole = self._plans.plan(context)
                    threads, memory = self._threads(context), self._memory(context)
                    quantize.run(context, ledger, lease, whole, threads, memory, self._turn)
                case UnitKind.PUBLISH if context.replay is not None:
                    whole = self._plans.plan(context)
                    threads, memory = self._threads(context), self._memory(context)
                    compare.run(context, ledger, lease, whole, threads, memory)
                case UnitKind.PUBLISH:
                    whole, keep_s = self._plans.plan(context), settings.replaced_keep_s
                    publish.run(context, ledger, lease, whole, keep_s)
                case UnitKind.CLEANUP:
                    cleanup.run(context, ledger, lease)

    def _threads(self, context: JobContext) -> int:
        """As many as the job asks for, but never more than the operator gives."""
        given = self._deps.settings.threads
        return min(given, context.request.limits.threads or given)

    def _memory(self, context: JobContext) -> int | None:
        """The tightest of what the operator, the job and its profile allow."""
        asked = context.request.limits.max_memory_bytes
        profiles = [PROFILES[o.recipe.profile].max_memory_bytes for o in context.outputs]
        limits = [self._deps.settings.max_memory_bytes, *([asked] if asked else profiles)]
        return min((limit for limit in limits if limit is not None), default=None)

    def _give_back(self, claim: Claim) -> None:
        """Let somebody else have the unit at once. If that cannot be said, the lease runs out."""
        try:
            self._deps.ledger.release(claim, 0)
            log.info("unit_given_back")
        except LeaseLost as error:
            log.info("lease_lost", reason=str(error))
        except ArrowQuantError as error:
            log.error("outcome_not_written", error=str(error))

    def _failed(self, claim: Claim, error: ArrowQuantError) -> str:
        """Try again later, or fail the job. If even that cannot be written, the lease runs out."""
        try:
            # Nobody waits for tidying up, and nobody would do it later: the ledger's own
            # limit is the end of it, after hours.
            tidying = claim.kind is UnitKind.CLEANUP
            if error.retryable and (tidying or claim.attempt < MAX_RETRIES):
                longest = MAX_TIDY_DELAY_S if tidying else MAX_DELAY_S
                delay = min(longest, 2.0 ** min(claim.attempt, 12))
                delay *= random.uniform(0.5, 1.0)
                log.warning("unit_released", error=str(error), delay_s=round(delay, 1))
                self._deps.ledger.release(claim, delay, error)
            else:
                # Named, told to its owner, and mostly theirs to mend: no defect of ours.
                log.warning("job_failed", code=error.code, error=str(error))
                self._deps.ledger.fail_job(claim, error)
        except ArrowQuantError as ledger_error:
            log.error("outcome_not_written", error=str(ledger_error))
        except LeaseLost as lost:  # whose unit it is now may well have ended what we were at
            log.info("lease_lost", reason=str(lost))
            return "lost"
        return error.code

    def ring_if_needed(self) -> None:
        """One bell wakes one process: whoever takes work and leaves more behind rings again."""
        with contextlib.suppress(ArrowQuantError):
            if self._deps.ledger.has_work():
                self._deps.bell.ring()


def _check_engine(claim: Claim) -> None:
    """All parts of an artifact are made by the versions that its manifest names."""
    planned = claim.resolved.get("engine")
    if claim.kind in (UnitKind.PLAN, UnitKind.CLEANUP) or planned == versions():
        return
    raise ArrowQuantError(
        "engine_changed",
        "the job was planned by another version than this worker runs",
        "Let all workers run one version; a retry makes all of it again with that one.",
        {"planned": _told(planned or {}), "running": _told(versions())},
    )


def _told(engine: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in sorted(engine.items()))


def _out_of_memory() -> ArrowQuantError:
    return ArrowQuantError(
        "out_of_memory",
        "the worker could not get the memory it asked for",
        "Give the worker more, or set limits.max_memory_bytes so that it holds fewer tiles.",
    )


def _internal(error: Exception) -> ArrowQuantError:
    return ArrowQuantError(
        "internal",
        f"{type(error).__name__} in the worker",
        "This is a defect: the worker's log has the traceback.",
    )
