"""A worker and an output at which one job follows another."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from service.domain.errors import ArrowQuantError
from service.domain.job import Claim, JobRecord, UnitKind
from service.domain.ports import ObjectStore
from service.domain.report import MANIFEST_NAME
from service.domain.spec import JobRequest
from service.settings import Settings
from service.usecases.submit import submit
from service.wiring import Deps, wire
from tests import weights
from workers.local import NoBell
from workers.workshop import Workshop

TENANT = "acme"
# A tensor is a unit, see `small_units`.
SHAPE = (320, 1024)


class World:
    """A ledger, a source of two units, an output of one kind, and a worker in this process."""

    def __init__(self, settings: Settings, output: str) -> None:
        self.deps: Deps = dataclasses.replace(wire(settings), bell=NoBell())
        self.connection = output
        self.workshop = Workshop(self.deps)
        self.claims: list[Claim] = []

    @property
    def store(self) -> ObjectStore:
        return self.deps.stores.open(TENANT, self.connection)

    def submit(self, if_exists: str = "fail", source: str = "m/", **recipe: Any) -> str:
        request = {
            "source": {"connection": "models", "prefix": source},
            "output": {"connection": self.connection, "prefix": "out/", "if_exists": if_exists},
            "recipe": {"bits": 8, "method": "minmax", "fallback": {"enabled": False}} | recipe,
        }
        deps = self.deps
        new = JobRequest.model_validate(request)
        return submit(new, TENANT, deps.stores, deps.webhooks, deps.ledger, deps.bell).job.id

    def work(self, job_id: str | None = None, until: UnitKind | None = None) -> Claim | None:
        """Until nothing is left, or a unit of this kind is claimed."""
        while (claim := self.deps.ledger.claim(self.workshop.worker, job_id)) is not None:
            if claim.kind is until:
                return claim
            self.claims.append(claim)
            self.workshop.work_on(claim)
        return None

    def done(self, **how: Any) -> JobRecord:
        job_id = self.submit(**how)
        self.work()
        return self.job(job_id)

    def job(self, job_id: str) -> JobRecord:
        return self.deps.ledger.get_job(job_id)

    def files(self) -> dict[str, str]:
        """Digest by name of everything below the output."""
        found = {}
        for info in self.store.list("out/"):
            data = self.store.read(info.key, 0, info.size) if info.size else b""
            found[info.key.removeprefix("out/")] = hashlib.sha256(data).hexdigest()
        return found

    def artifact(self) -> dict[str, str]:
        """Digest by name of what the manifest lists, all checked."""
        info = self.store.stat("out/" + MANIFEST_NAME)
        data = self.store.read(info.key, 0, info.size, info.etag)
        manifest = json.loads(data)
        listed = {f["name"]: f["sha256"] for f in (manifest["report"], *manifest["parts"])}
        for name, digest in listed.items():
            part = self.store.stat(f"out/{name}")
            read = self.store.read(part.key, 0, part.size, part.etag)
            assert hashlib.sha256(read).hexdigest() == digest, name
        return listed | {MANIFEST_NAME: hashlib.sha256(data).hexdigest()}

    def keep_replaced(self, seconds: int) -> None:
        settings = self.deps.settings.model_copy(update={"replaced_keep_s": seconds})
        self.deps = dataclasses.replace(self.deps, settings=settings)
        self.workshop = Workshop(self.deps)

    def half_done(self, **recipe: Any) -> str:
        """A job that failed with one of its two parts finished."""
        job_id = self.submit(**recipe)
        self.workshop.work_on(self.claim(UnitKind.PLAN))
        self.workshop.work_on(self.claim(UnitKind.QUANTIZE))
        claim = self.claim(UnitKind.QUANTIZE)
        self.deps.ledger.fail_job(claim, ArrowQuantError("max_runtime_exceeded", "too long"))
        self.work()
        return job_id

    def claim(self, kind: UnitKind) -> Claim:
        claim = self.deps.ledger.claim(self.workshop.worker)
        assert claim is not None
        assert claim.kind is kind
        return claim


def write_source(folder: Path, seed: int) -> None:
    tensors = {
        f"blocks.{n}.weight": weights.tensor(weights.gaussian(SHAPE, seed + n)) for n in range(2)
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights.write(folder / "model.safetensors", tensors)
