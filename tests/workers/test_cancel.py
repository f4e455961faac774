"""A job that is cancelled in the moment of its commit leaves nothing that looks like an artifact."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.domain.job import Claim, JobState, UnitKind
from service.domain.report import MANIFEST_NAME, REPORT_NAME
from tests import weights
from tests.workers.runs import begin, finish
from workers.local import LocalJob
from workers.workshop import Workshop


@pytest.fixture
def source(tmp_path: Path) -> Path:
    tensors = {"a.weight": weights.tensor(weights.gaussian((64, 64), 1))}
    return weights.write(tmp_path / "model.safetensors", tensors)


def _until_publish(job: LocalJob) -> tuple[Workshop, Claim]:
    """Everything is done but the publishing, which is claimed."""
    workshop = Workshop(job.deps)
    while True:
        claim = job.deps.ledger.claim(workshop._worker)
        assert claim is not None
        if claim.kind is UnitKind.PUBLISH:
            return workshop, claim
        workshop.work_on(claim)


def _on_put(
    job: LocalJob,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    before: bool,
    do: Callable[[], Any],
) -> None:
    """Do something right before, or right after, a file of the artifact is put."""
    output = job.deps.stores.open("local", "output")
    put = output.put

    def and_more(key: str, data: bytes, *, if_absent: bool = False) -> object:
        if key == name and before:
            do()
        info = put(key, data, if_absent=if_absent)
        if key == name and not before:
            do()
        return info

    monkeypatch.setattr(output, "put", and_more)


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_cancelled_after_the_report_there_is_no_manifest(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begin(tmp_path, source, tmp_path / "out", bits=8)
    workshop, publish = _until_publish(job)
    seen: list[str] = []
    cancel = lambda: job.deps.ledger.cancel_job(job.job_id)  # noqa: E731
    _on_put(job, REPORT_NAME, monkeypatch, before=False, do=cancel)
    _on_put(job, MANIFEST_NAME, monkeypatch, before=True, do=lambda: seen.append("manifest"))
    workshop.work_on(publish)
    assert seen == []
    workshop.run()
    assert job.deps.ledger.get_job(job.job_id).state is JobState.CANCELLED
    assert _files(tmp_path / "out") == []


@pytest.mark.parametrize("cleaned", [False, True])
def test_cancelled_around_the_manifest_it_is_taken_back(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, cleaned: bool
) -> None:
    """Also when another worker has cleaned up before the manifest arrived."""
    job = begin(tmp_path, source, tmp_path / "out", bits=8)
    workshop, publish = _until_publish(job)

    def cancel() -> None:
        job.deps.ledger.cancel_job(job.job_id)
        if cleaned:
            Workshop(job.deps).run()

    _on_put(job, MANIFEST_NAME, monkeypatch, before=True, do=cancel)
    workshop.work_on(publish)
    workshop.run()
    assert job.deps.ledger.get_job(job.job_id).state is JobState.CANCELLED
    assert _files(tmp_path / "out") == []


def test_a_publisher_that_died_right_after_the_manifest(tmp_path: Path, source: Path) -> None:
    """Cleaning up finds the manifest and knows it by the digests of the parts."""
    job = begin(tmp_path, source, tmp_path / "out", bits=8)
    _, _ = _until_publish(job)
    done = finish(begin(tmp_path / "twin", source, tmp_path / "twin" / "out", bits=8))
    assert done.state is JobState.SUCCEEDED
    for name in (MANIFEST_NAME, REPORT_NAME):
        (tmp_path / "out" / name).write_bytes((tmp_path / "twin" / "out" / name).read_bytes())
    job.deps.ledger.cancel_job(job.job_id)
    Workshop(job.deps).run()
    assert _files(tmp_path / "out") == []


def test_parts_that_were_to_be_made_again_go_too(tmp_path: Path) -> None:
    """The last rows of a tensor decided that its first part is too narrow: the ledger has
    forgotten that part, and it is still there."""
    values = weights.gaussian((4096, 1024), 1)
    tensors = {"a.weight": weights.tensor(values), "b.weight": weights.tensor(values[:64])}
    source = weights.write(tmp_path / "model.safetensors", tensors)
    job = begin(tmp_path, source, tmp_path / "out", bits=4)
    workshop = Workshop(job.deps)
    for kind in (UnitKind.PLAN, UnitKind.QUANTIZE):
        claim = job.deps.ledger.claim(workshop._worker)
        assert claim is not None
        assert claim.kind is kind
        workshop.work_on(claim)
    [part] = job.deps.ledger.parts(job.job_id)
    # As if the ledger had taken it back for another width.
    with sqlite3.connect(job.ledger_file) as database:
        database.execute("update units set state = 'FREE' where kind = 'quantize'")
        database.execute("delete from parts")
    assert job.deps.ledger.parts(job.job_id) == []
    job.deps.ledger.cancel_job(job.job_id)
    Workshop(job.deps).run()
    assert not (tmp_path / "out" / part.key).exists()


@pytest.mark.parametrize("manifest", [b'{"parts": []}', b"[]", b"not json", b"\xff"])
def test_a_manifest_of_somebody_else_stays(tmp_path: Path, source: Path, manifest: bytes) -> None:
    job = begin(tmp_path, source, tmp_path / "out", bits=8)
    _until_publish(job)
    (tmp_path / "out" / MANIFEST_NAME).write_bytes(manifest)
    job.deps.ledger.cancel_job(job.job_id)
    Workshop(job.deps).run()
    assert _files(tmp_path / "out") == [MANIFEST_NAME]
