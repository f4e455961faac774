"""The whole pipeline on folders: what comes out is what was announced, and nothing is missing."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrowquant
from service.domain import units
from service.domain.catalog import ObjectInfo
from service.domain.job import EventType, JobState, UnitKind
from service.domain.limits import Limits
from service.domain.places import Source
from service.domain.spec import PlanRequest, Recipe
from service.usecases.plan import announce
from tests import weights
from tests.workers.runs import begin, digests, finish
from workers.artifact.part import PartWriter
from workers.local import TENANT, TwoPlaces, plan_request
from workers.pipeline import Pass, Work
from workers.steps import quantize
from workers.workshop import Workshop

TIED = {"lm_head.weight": "embed_tokens.weight"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    tensors = weights.mixed()
    names = list(tensors)
    shards = [{n: tensors[n] for n in names[:7]}, {n: tensors[n] for n in names[7:]}]
    return weights.write_sharded(folder / "model", shards)


def _announced(source: Path, **recipe: object) -> dict[str, object]:
    store, request = plan_request(str(source), Recipe(**recipe))  # type: ignore[arg-type]
    assert isinstance(request, PlanRequest)
    assert isinstance(request.source, Source)
    return announce(TwoPlaces(store, store), TENANT, request)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_tensor_is_in_the_artifact(
    tmp_path: Path, source: Path, bits: int, symmetric: bool
) -> None:
    """Quantized or kept bit for bit, at the announced size, readable by the client."""
    recipe = {
        "bits": bits,
        "group_size": 32,
        "symmetric": symmetric,
        "fallback": {"enabled": False},
    }
    job = finish(begin(tmp_path, source, tmp_path / "out", **recipe))
    assert job.state is JobState.SUCCEEDED, job.error
    announced = _announced(source, **recipe)
    totals = json.loads((tmp_path / "out" / "manifest.json").read_text())["totals"]
    expected = announced["totals"]
    assert isinstance(expected, dict)
    assert totals["payload_bytes"] == expected["payload_bytes"]
    assert totals["parts_bytes"] == expected["parts_bytes"]
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert totals["artifact_bytes"] == size

    tensors = weights.mixed()
    with arrowquant.open(tmp_path / "out") as artifact:
        assert set(artifact.keys()) == set(tensors)
        assert artifact.verify().ok
        for name, stored in tensors.items():
            _same_or_close(artifact[name], stored, bits)


def _same_or_close(read: arrowquant.QuantizedTensor, stored: object, bits: int) -> None:
    dtype, values = stored  # type: ignore[misc]
    assert read.shape == values.shape
    if read.codec == "raw":
        decoded = read.dequantize()
        expected = weights.widened((dtype, values)) if dtype == "BF16" else values
        np.testing.assert_array_equal(decoded, expected)
        return
    original = weights.widened((dtype, values))
    decoded = read.dequantize(dtype="float32")
    if not original.any() or np.ptp(original) == 0:
        np.testing.assert_array_equal(decoded, original)  # zero and constant groups are exact
        return
    error = float(np.sum((decoded - original).astype(np.float64) ** 2))
    relmse = error / float(np.sum(original.astype(np.float64) ** 2))
    assert relmse < {2: 0.16, 3: 0.04, 4: 0.01, 8: 1e-4}[read.bits]


def test_total_is_announced_to_a_thousandth(tmp_path: Path) -> None:
    """The documents' numbers have other digits than the forecast's; nothing else differs."""
    tensors = {
        f"blocks.{i}.attn.to_q.weight": weights.bfloat16(weights.gaussian((1024, 1024), i))
        for i in range(12)
    }
    source = weights.write(tmp_path / "model.safetensors", tensors)
    job = finish(begin(tmp_path, source, tmp_path / "out", bits=4, group_size=64))
    assert job.state is JobState.SUCCEEDED, job.error
    expected = _announced(source, bits=4, group_size=64)["totals"]
    assert isinstance(expected, dict)
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert expected["artifact_bytes"] == pytest.approx(size, rel=1e-3)


def test_ties_are_stored_once(tmp_path: Path, source: Path) -> None:
    job = finish(begin(tmp_path, source, tmp_path / "out", bits=8))
    assert job.state is JobState.SUCCEEDED
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["tied"] == TIED
    with arrowquant.open(tmp_path / "out") as artifact:
        np.testing.assert_array_equal(
            artifact["lm_head.weight"].dequantize(), artifact["embed_tokens.weight"].dequantize()
        )


def test_bytes_do_not_depend_on_threads(tmp_path: Path, source: Path) -> None:
    for threads in (1, 2, 5):
        job = finish(begin(tmp_path, source, tmp_path / f"out{threads}", threads=threads, bits=4))
        assert job.state is JobState.SUCCEEDED
        (tmp_path / f"out{threads}").rename(tmp_path / f"kept{threads}")
    first = {k: v for k, v in digests(tmp_path / "kept1").items() if k != "manifest.json"}
    for threads in (2, 5):
        kept = digests(tmp_path / f"kept{threads}")
        kept.pop("manifest.json")  # it names the output folder
        assert kept == first


@pytest.mark.parametrize("granularity", ["row", "tensor"])
def test_other_granularities(tmp_path: Path, source: Path, granularity: str) -> None:
    recipe = {"bits": 8, "granularity": granularity, "method": "minmax"}
    job = finish(begin(tmp_path, source, tmp_path / "out", fallback={"enabled": False}, **recipe))
    assert job.state is JobState.SUCCEEDED, job.error
    with arrowquant.open(tmp_path / "out") as artifact:
        read = artifact["blocks.0.mlp.fc1.weight"]
        original = weights.widened(weights.mixed()["blocks.0.mlp.fc1.weight"])
        np.testing.assert_allclose(read.dequantize(), original, atol=np.ptp(original) / 255)
        _, _, scales, _ = next(iter(read.tiles()))
        assert scales is not None
        assert scales.size == (1 if granularity == "tensor" else 128)


def test_recorded_errors_are_the_errors(tmp_path: Path, source: Path) -> None:
    """The report's figures against the decoded artifact, in float64 by numpy alone."""
    finish(begin(tmp_path, source, tmp_path / "out", bits=4, group_size=32))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    checked = 0
    with arrowquant.open(tmp_path / "out") as artifact:
        for entry in report["tensors"]:
            if entry.get("sqnr_db") is None:
                continue
            w = weights.widened(weights.mixed()[entry["name"]]).astype(np.float64)
            v = artifact[entry["name"]].dequantize().astype(np.float64)
            relmse = np.sum((w - v) ** 2) / np.sum(w**2)
            assert entry["relmse"] == pytest.approx(relmse, rel=1e-5)
            assert entry["sqnr_db"] == pytest.approx(-10 * math.log10(relmse), rel=1e-5)
            cosine = np.sum(w * v) / math.sqrt(np.sum(w * w) * np.sum(v * v))
            assert entry["cosine"] == pytest.approx(cosine, rel=1e-5)
            assert entry["max_abs_error"] == pytest.approx(np.max(np.abs(w - v)), rel=1e-5)
            checked += 1
    assert checked >= 6


def test_non_finite_weights_fail_the_job(tmp_path: Path) -> None:
    values = weights.gaussian((64, 3, 5, 5), 1)
    values[17, 2, 4, 1] = np.nan
    source = weights.write(tmp_path / "model.safetensors", {"conv.weight": weights.tensor(values)})
    job = finish(begin(tmp_path, source, tmp_path / "out", bits=8))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "non_finite_weights"
    assert job.error["where"]["tensor"] == "conv.weight"
    assert job.error["where"]["index"] == [17, 2, 4, 1]
    assert list((tmp_path / "out").iterdir()) == []


def test_a_source_that_changes_fails_the_job(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights.write(path, {"a.weight": weights.tensor(weights.gaussian((64, 64), 1))})
    job = begin(tmp_path, path, tmp_path / "out", bits=8)
    workshop = Workshop(job.deps)
    plan = job.deps.ledger.claim(workshop._worker)
    assert plan is not None
    assert plan.kind is UnitKind.PLAN
    workshop.work_on(plan)
    weights.write(path, {"a.weight": weights.tensor(weights.gaussian((64, 64), 2))})
    last = finish(job)
    assert last.state is JobState.FAILED
    assert last.error is not None
    assert last.error["code"] == "source_changed"
    assert finish(begin(tmp_path, path, tmp_path / "out", bits=8)).state is JobState.SUCCEEDED


def test_units_wait_for_a_worker_of_the_version_that_planned(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts of two versions in one artifact would be nobody's."""
    job = begin(tmp_path, source, tmp_path / "out", bits=8)
    old = Workshop(job.deps)
    plan = job.deps.ledger.claim(old._worker)
    assert plan is not None
    old.work_on(plan)
    with monkeypatch.context() as upgraded:
        upgraded.setattr("workers.workshop.versions", lambda: {"arrowquant": "99"})
        Workshop(job.deps).run()
    waiting = job.deps.ledger.get_job(job.job_id)
    assert (waiting.state, waiting.progress.units_done) == (JobState.RUNNING, 0)
    [trouble, *_] = [event for event in job.news(0) if event.type is EventType.WARNING]
    assert trouble.data["code"] == "engine_changed"
    assert trouble.data["where"]["running"] == "arrowquant 99"
    assert finish(job).state is JobState.SUCCEEDED


def test_an_upgraded_command_begins_anew(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begin(tmp_path, source, tmp_path / "out", bits=8)
    assert begin(tmp_path, source, tmp_path / "out", bits=8).job_id == job.job_id
    monkeypatch.setattr("workers.local.versions", lambda: {"arrowquant": "99"})
    assert begin(tmp_path, source, tmp_path / "out", bits=8).job_id != job.job_id


def test_an_artifact_is_not_overwritten_unasked(tmp_path: Path, source: Path) -> None:
    first = finish(begin(tmp_path, source, tmp_path / "out", bits=8))
    assert first.state is JobState.SUCCEEDED
    before = digests(tmp_path / "out")
    second = finish(begin(tmp_path, source, tmp_path / "out", bits=4))
    assert second.error is not None
    assert second.error["code"] == "output_exists"
    assert digests(tmp_path / "out") == before
    third = finish(begin(tmp_path, source, tmp_path / "out", bits=4, replace=True))
    assert third.state is JobState.SUCCEEDED
    assert digests(tmp_path / "out") != before


def test_one_unit_has_tiles_while_another_is_finished(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first part that is to be published waits until tiles of another unit are in memory."""
    inside = threading.Semaphore(1)
    begun: list[int] = []
    others = threading.Event()
    passing, publishing = quantize.run_pass, PartWriter.publish

    def alone(work: Work, *rest: Any) -> dict[int, Pass]:
        assert inside.acquire(blocking=False)
        begun.append(work.unit.seq)
        if len(begun) > 1:
            others.set()
        try:
            return passing(work, *rest)
        finally:
            inside.release()

    def publish(part: PartWriter) -> ObjectInfo:
        assert others.wait(60)
        return publishing(part)

    monkeypatch.setattr(quantize, "run_pass", alone)
    monkeypatch.setattr(PartWriter, "publish", publish)
    monkeypatch.setattr(units, "MIN_UNIT_BYTES", 2**16)
    job = finish(begin(tmp_path, source, tmp_path / "out", bits=8))
    assert job.state is JobState.SUCCEEDED, job.error
    assert sorted(begun) == list(range(job.progress.units_total))
    assert len(begun) > 1


def test_a_limit_below_the_floor_is_refused(tmp_path: Path, source: Path) -> None:
    limits = Limits(threads=1, max_memory_bytes=256 * 2**20)
    wide = weights.write(
        tmp_path / "wide.safetensors",
        {"wide.weight": weights.tensor(np.ones((4, 14 * 2**20), np.float32))},
    )
    job = finish(begin(tmp_path, wide, tmp_path / "out", limits=limits, bits=4))
    assert job.error is not None
    assert job.error["code"] == "memory_limit_too_small"
    assert "MiB" in job.error["hint"]


def test_failed_jobs_leave_no_uploads(tmp_path: Path) -> None:
    values = weights.gaussian((2048, 2048), 1)
    values[-1, -1] = np.inf
    source = weights.write(tmp_path / "m.safetensors", {"a.weight": weights.tensor(values)})
    job = begin(tmp_path, source, tmp_path / "out", bits=8)
    assert finish(job).state is JobState.FAILED
    Workshop(job.deps).run()
    assert list(job.deps.stores.open("local", "output").uploads("")) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_unbiased_rows_keep_their_length(tmp_path: Path) -> None:
    """With `unbias` 1 the stored rows have the weights' own projection, at some cost in error."""
    values = weights.gaussian((256, 512), 1)
    source = weights.write(tmp_path / "m.safetensors", {"a.weight": weights.tensor(values)})
    gains = {}
    for unbias in (0.0, 1.0):
        out = tmp_path / f"out{unbias}"
        recipe = {"bits": 2, "group_size": 64, "unbias": unbias, "fallback": {"enabled": False}}
        assert finish(begin(tmp_path, source, out, **recipe)).state is JobState.SUCCEEDED
        with arrowquant.open(out) as artifact:
            read = artifact["a.weight"].dequantize().astype(np.float64)
        gains[unbias] = np.sum(values * read) / np.sum(values.astype(np.float64) ** 2)
    assert gains[0.0] < 0.92
    assert gains[1.0] == pytest.approx(1.0, abs=0.01)
