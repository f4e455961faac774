"""Running local jobs in tests."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from service.domain.job import JobRecord, UnitKind, Worker
from service.domain.limits import Limits
from service.domain.spec import Recipe
from service.settings import Settings
from workers import places
from workers.local import LocalJob, open_job
from workers.workshop import Workshop

_open: list[LocalJob] = []


def settings_in(folder: Path, **fields: Any) -> Settings:
    """Embedded settings with their data below a test's folder."""
    return Settings.load(data_dir=folder / "data", **fields)


def begin(
    tmp_path: Path,
    source: Path | str,
    output: Path | str,
    *,
    threads: int = 2,
    limits: Limits | None = None,
    replace: bool = False,
    measured: Path | str | None = None,
    **recipe: Any,
) -> LocalJob:
    """A local job that has not run yet; `close_all` closes it. `measured`: its calibration file."""
    if measured is not None:
        _, key = places.calibration(str(measured))
        named = {"connection": "calibration", "key": key}
        recipe["calibration"] = named | recipe.get("calibration", {})
    job = open_job(
        settings_in(tmp_path),
        str(source),
        str(output),
        Recipe(**recipe),
        limits or Limits(threads=threads),
        None if measured is None else str(measured),
        replace=replace,
    )
    _open.append(job)
    return job


def close_all() -> None:
    """Let go of every ledger that `begin` opened."""
    while _open:
        _open.pop().close()


def finish(job: LocalJob) -> JobRecord:
    """Run to the end."""
    *_, last = job.run()
    return last


def die_at(job: LocalJob, kind: UnitKind) -> None:
    """Work up to the first unit of a kind; who took that one is gone."""
    ledger, shop = job.deps.ledger, Workshop(job.deps)
    while True:
        claim = ledger.claim(Worker("ghost", "elsewhere", 1), job.job_id)
        assert claim is not None
        if claim.kind is kind:
            break
        ledger.release(claim, 0)
        shop.run(job.job_id, most=1)
    assert ledger.release_dead("elsewhere", []) == 1


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of an artifact."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    }
