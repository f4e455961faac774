"""The quality gate: what misses it climbs 2, 4, 8 and is kept in the end, and everybody is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import arrowquant
from service.domain.job import JobState, TensorState
from service.domain.units import MIN_UNIT_BYTES
from tests import weights
from tests.workers.runs import begin, digests, finish


def _stretched(shape: tuple[int, int], seed: int) -> weights.Array:
    """Gaussian weights with an outlier on both sides of every group of 32: twelve sigma to cover."""
    values = weights.gaussian(shape, seed)
    values[:, ::32], values[:, 1::32] = 6 * 0.02, -6 * 0.02
    return values


@pytest.fixture
def source(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 2**16, (64, 64), np.uint16)
    tensors = {
        "easy.weight": weights.tensor(weights.gaussian((256, 256), 1)),
        "hard.weight": weights.tensor(_stretched((256, 256), 2)),
        # Beyond float16: no scale can reach it at any width.
        "huge.weight": weights.tensor(weights.gaussian((64, 64), 3) * np.float32(1e30)),
        "last.weight": weights.bfloat16(weights.gaussian((128, 64), 4)),
        "noise": ("U16", noise),
    }
    return weights.write(tmp_path / "model.safetensors", tensors)


def test_the_ladder_is_climbed_and_recorded(tmp_path: Path, source: Path) -> None:
    gate = {"min_sqnr_db": 21.0, "min_cosine": 0.9}
    job = begin(tmp_path, source, tmp_path / "out", bits=2, group_size=32, fallback=gate)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    rows = {row.name: row for row in job.deps.ledger.tensors(last.id)}
    assert rows["easy.weight"].state is TensorState.FALLBACK
    assert rows["easy.weight"].bits == 4
    assert [entry["bits"] for entry in rows["easy.weight"].history] == [2]
    assert rows["hard.weight"].bits == 8
    assert [entry["bits"] for entry in rows["hard.weight"].history] == [2, 4]
    assert rows["huge.weight"].codec == "raw"
    assert [entry["bits"] for entry in rows["huge.weight"].history] == [2, 4, 8]
    assert rows["noise"].state is TensorState.KEPT
    assert last.progress.tensors_fallback == 4

    report = json.loads((tmp_path / "out" / "report.json").read_text())
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    told = {entry["tensor"]: entry for entry in manifest["escalations"]}
    assert report["escalations"] == manifest["escalations"]
    assert set(told) == {"easy.weight", "hard.weight", "huge.weight", "last.weight"}
    tried = told["hard.weight"]["tried"]
    assert [entry["bits"] for entry in tried] == [2, 4]
    assert all(entry["sqnr_db"] < 21 for entry in tried)
    assert told["hard.weight"]["metrics"]["sqnr_db"] >= 21
    assert "21 dB" in told["hard.weight"]["reason"]

    with arrowquant.open(tmp_path / "out") as artifact:
        assert artifact.verify(against=source).ok
        huge = weights.gaussian((64, 64), 3) * np.float32(1e30)
        np.testing.assert_array_equal(artifact["huge.weight"].dequantize(), huge)


def test_without_a_gate_errors_are_only_recorded(tmp_path: Path, source: Path) -> None:
    """What is worse than useless is kept raw all the same."""
    job = begin(tmp_path, source, tmp_path / "out", bits=2, fallback={"enabled": False})
    last = finish(job)
    rows = {row.name: row for row in job.deps.ledger.tensors(last.id)}
    assert rows["easy.weight"].bits == rows["hard.weight"].bits == 2
    assert rows["hard.weight"].state is TensorState.DONE
    assert rows["huge.weight"].codec == "raw"


def test_a_recipe_may_rather_fail_than_store_wider(tmp_path: Path, source: Path) -> None:
    gate = {"min_sqnr_db": 15.0, "min_cosine": 0.9, "on_miss": "fail"}
    rules = [{"match": name, "action": "keep"} for name in ("huge.weight", "last.weight")]
    recipe = {"bits": 4, "group_size": 32, "rules": rules}
    job = begin(tmp_path, source, tmp_path / "out", fallback=gate | {"min_sqnr_db": 21}, **recipe)
    last = finish(job)
    assert last.state is JobState.FAILED
    assert last.error is not None
    assert last.error["code"] == "quality_below_threshold"
    assert last.error["retryable"] is False
    where = last.error["where"]
    assert (where["tensor"], where["bits"], where["min_sqnr_db"]) == ("hard.weight", 4, 21)
    assert where["sqnr_db"] < 21
    assert where["min_cosine"] == 0.9
    for told in ("hard.weight", "4 bits", f"{where['sqnr_db']} dB", str(where["cosine"]), "21 dB"):
        assert told in last.error["message"]
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []

    job = begin(tmp_path, source, tmp_path / "met", fallback=gate, **recipe)
    met = finish(job)
    assert met.state is JobState.SUCCEEDED, met.error
    widths = {row.bits for row in job.deps.ledger.tensors(met.id) if row.codec != "raw"}
    assert widths == {4}


def test_a_tensor_in_several_units_is_judged_whole(tmp_path: Path) -> None:
    """Only its last rows are bad, and the rows of the first unit climb with them."""
    cols = 1024
    rows = 3 * MIN_UNIT_BYTES // (4 * cols)
    values = weights.gaussian((rows, cols), 1)
    values[-(rows // 4) :] = 50 * _stretched((rows // 4, cols), 2)
    source = weights.write(
        tmp_path / "model.safetensors",
        {"wide.weight": weights.tensor(values), "small.weight": weights.tensor(values[:64])},
    )
    gate = {"min_sqnr_db": 15.0, "min_cosine": 0.0}
    job = begin(tmp_path, source, tmp_path / "out", bits=2, group_size=64, fallback=gate)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    found = {row.name: row for row in job.deps.ledger.tensors(last.id)}
    assert found["wide.weight"].bits > 2
    with arrowquant.open(tmp_path / "out") as artifact:
        widths = {len(codes) for _, codes, _, _ in artifact["wide.weight"].tiles()}
        assert len(widths) >= 1
        assert artifact["wide.weight"].bits == found["wide.weight"].bits
        assert artifact.verify(against=source).ok
    again = finish(
        begin(tmp_path, source, tmp_path / "two", bits=2, group_size=64, fallback=gate, threads=1)
    )
    assert again.state is JobState.SUCCEEDED
    first, second = digests(tmp_path / "out"), digests(tmp_path / "two")
    assert {k: v for k, v in first.items() if k != "manifest.json"} == {
        k: v for k, v in second.items() if k != "manifest.json"
    }
