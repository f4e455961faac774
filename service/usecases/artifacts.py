"""What a finished job left in the object store: its files and how to get them."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import orjson

from service.domain.errors import ArrowQuantError
from service.domain.job import JobRecord, JobState
from service.domain.ports import Ledger, ObjectStore, ObjectStores
from service.domain.report import MANIFEST_NAME
from service.usecases.which_output import Which, one_output, outputs_of

MAX_MANIFEST_BYTES: Final = 256 * 2**20
PRESIGN_S: Final = 300  # at most: a leaked address is worth little after five minutes
_REMEMBERED: Final = 128


@dataclass(frozen=True, slots=True)
class ArtifactFile:
    """One file of an artifact. `sha256` is in hex."""

    name: str
    nbytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Download:
    """Either a short-lived address to go to, or the bytes themselves."""

    file: ArtifactFile
    url: str | None
    chunks: Iterator[bytes] | None


class Artifacts:
    """Reads artifacts of jobs. What a manifest lists is remembered as long as its ETag holds."""

    def __init__(self, ledger: Ledger, stores: ObjectStores) -> None:
        self._ledger, self._stores = ledger, stores
        self._lock = threading.Lock()
        self._files: OrderedDict[tuple[str, str, str], tuple[ArtifactFile, ...]] = OrderedDict()

    def files(
        self, job_id: str, tenant: str, output: str | None = None
    ) -> list[tuple[str, ArtifactFile]]:
        """Manifest, report, parts, each with the id of its output: of all outputs, or of one.

        Raises not_ready, or not_found once the artifact is gone.
        """
        job = self._succeeded(job_id, tenant)
        store = self._store(job)
        return [
            (which.id, file)
            for which in outputs_of(job, output)
            for file in self._listed(job, store, which)
        ]

    def download(
        self, job_id: str, tenant: str, name: str, seconds: int, output: str | None = None
    ) -> Download:
        """One file by its name in the manifest; no other name is ever looked up."""
        job = self._succeeded(job_id, tenant)
        store, which = self._store(job), one_output(job, output)
        file = next((f for f in self._listed(job, store, which) if f.name == name), None)
        if file is None:
            raise ArrowQuantError("not_found", "the artifact has no file of this name")
        key = _key(job, which, name)
        url = store.presign(key, min(seconds, PRESIGN_S))
        return Download(file, url, None if url else _checked(store, key, file))

    def report(self, job_id: str, tenant: str, output: str | None = None) -> Download:
        """The report's bytes, through us in any case."""
        job = self._succeeded(job_id, tenant)
        store, which = self._store(job), one_output(job, output)
        _, file, *_parts = self._listed(job, store, which)
        return Download(file, None, _checked(store, _key(job, which, file.name), file))

    def _succeeded(self, job_id: str, tenant: str) -> JobRecord:
        job = self._ledger.get_job(job_id, tenant)
        if job.state is not JobState.SUCCEEDED:
            raise ArrowQuantError(
                "not_ready",
                f"the job is {job.state.value}; it has an artifact once it is SUCCEEDED",
                "Wait for the job, or read its error.",
            )
        return job

    def _store(self, job: JobRecord) -> ObjectStore:
        return self._stores.open(job.tenant, job.request["output"]["connection"])

    def _listed(self, job: JobRecord, store: ObjectStore, which: Which) -> tuple[ArtifactFile, ...]:
        key = _key(job, which, MANIFEST_NAME)
        try:
            info = store.stat(key)
            with self._lock:
                known = self._files.get((job.id, which.id, info.etag))
            if known is not None:
                return known
            if info.size > MAX_MANIFEST_BYTES:
                raise _gone(job, which)
            data = store.read(key, 0, info.size, info.etag)
        except ArrowQuantError as error:
            if error.code in ("source_not_found", "source_changed"):
                raise _gone(job, which) from None
            raise
        published = _published(job, which)
        if published is not None and hashlib.sha256(data).hexdigest() != published:
            raise _gone(job, which)
        return self._remember((job.id, which.id, info.etag), _parse(orjson.loads(data), data))

    def _remember(
        self, which: tuple[str, str, str], files: tuple[ArtifactFile, ...]
    ) -> tuple[ArtifactFile, ...]:
        with self._lock:
            self._files[which] = files
            while len(self._files) > _REMEMBERED:
                self._files.popitem(last=False)
        return files


def _published(job: JobRecord, which: Which) -> str | None:
    """SHA-256 of an output's manifest, as the job's summary has it."""
    summary = job.summary or {}
    if which.id:
        summary = summary["outputs"][which.number]
    digest: str | None = (summary.get("manifest") or {}).get("sha256")
    return digest


def _parse(manifest: Any, data: bytes) -> tuple[ArtifactFile, ...]:
    own = ArtifactFile(MANIFEST_NAME, len(data), hashlib.sha256(data).hexdigest())
    beside = [manifest[key] for key in ("report", "activations") if key in manifest]
    listed = [*beside, *manifest["parts"]]
    return own, *(ArtifactFile(f["name"], f["bytes"], f["sha256"]) for f in listed)


def _checked(store: ObjectStore, key: str, file: ArtifactFile) -> Iterator[bytes]:
    """The object's bytes, if it still has the size the manifest gives: asked before the first."""
    try:
        info = store.stat(key)
    except ArrowQuantError as error:
        if error.code != "source_not_found":
            raise
        raise ArrowQuantError("not_found", "the file was removed from the store") from None
    if info.size != file.nbytes:
        raise ArrowQuantError(
            "digest_mismatch",
            f"the file has {info.size} bytes in the store, {file.nbytes} in the manifest",
            "Run the job again: what is stored is not what was written.",
            {"object": key},
        )
    return store.stream(key, info.etag)


def _key(job: JobRecord, which: Which, name: str) -> str:
    return str(job.request["output"].get("prefix", "")) + which.folder + name


def _gone(job: JobRecord, which: Which) -> ArrowQuantError:
    return ArrowQuantError(
        "not_found",
        "the artifact of this job is no longer in its place: it was removed, or replaced by "
        "another job",
        "Look for a newer job with the same output prefix.",
        {"object": _key(job, which, MANIFEST_NAME)},
    )
