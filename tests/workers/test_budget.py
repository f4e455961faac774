"""A bit budget from end to end: measured, allocated, kept to, and the same on every run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrowquant
from service.domain.job import JobState, Phase, TensorState, UnitKind
from service.domain.spec import Recipe, resolve
from service.domain.units import MIN_UNIT_BYTES
from tests import weights
from tests.workers.runs import begin, die_at, digests, finish
from workers.steps import analyze, quantize


def _blocks(count: int = 4, size: int = 256) -> dict[str, tuple[str, weights.Array]]:
    """A small text model; the values of its blocks are spread, and some have outliers."""
    made = {"model.embed_tokens.weight": weights.bfloat16(weights.gaussian((512, size), 1))}
    for block in range(count):
        for number, name in enumerate(("q_proj", "v_proj", "o_proj")):
            values = weights.gaussian((size, size), 10 * block + number + 2)
            if block == 2:
                values[:, ::32], values[:, 1::32] = 0.12, -0.12
            made[f"model.layers.{block}.self_attn.{name}.weight"] = weights.bfloat16(values)
        made[f"model.layers.{block}.input_layernorm.weight"] = weights.bfloat16(np.ones(size))
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return weights.write(tmp_path / "model.safetensors", _blocks())


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        json.loads((folder / "manifest.json").read_text()),
        json.loads((folder / "report.json").read_text()),
    )


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("bpw", [3.6, 5.0, 9.0])
def test_the_artifact_keeps_to_the_budget(tmp_path: Path, source: Path, bpw: float) -> None:
    """Everything counted, and little room is left over."""
    job = begin(tmp_path, source, tmp_path / "out", budget=bpw, group_size=64, bits=2)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    manifest, report = _read(tmp_path / "out")
    limit = bpw * manifest["totals"]["parameters"] / 8
    assert _bytes(tmp_path / "out") == manifest["totals"]["artifact_bytes"] <= limit
    assert _bytes(tmp_path / "out") > 0.9 * limit
    assert manifest["escalations"] == []

    phases = [
        event.data["phase"]
        for event in job.deps.ledger.events(last.id, 0, 1000)
        if event.type.value == "state" and event.data["phase"]
    ]
    assert phases == [phase.value for phase in Phase]
    assert last.progress.bytes_total == 2 * manifest["source"]["bytes"]
    assert last.progress.units_total == 2

    rows = {row.name: row for row in job.deps.ledger.tensors(last.id)}
    choice = manifest["recipe"]["resolved"]["allocation"]["choice"]
    ways = report["candidates"]["ways"]
    assert [way["bits"] for way in ways] == [2, 3, 4, 8]
    for name, number in choice.items():
        assert rows[name].bits == (ways[number]["bits"] if number >= 0 else 0)
        assert rows[name].state is (TensorState.DONE if number >= 0 else TensorState.KEPT)
        if number >= 0:  # what was measured is what was made
            made = (rows[name].metrics or {})["relmse"]
            assert report["candidates"]["relmse"][name][number] == pytest.approx(made, rel=1e-3)
    assert "errors" not in manifest["recipe"]["resolved"]["allocation"]
    with arrowquant.open(tmp_path / "out") as artifact:
        assert artifact.verify(against=source).ok


def test_the_gate_is_a_floor(tmp_path: Path, source: Path) -> None:
    """Outliers in block 2: at two bits its tensors miss the gate and are never offered them."""
    job = begin(tmp_path, source, tmp_path / "out", budget=4.2, group_size=64, bits=2)
    assert finish(job).state is JobState.SUCCEEDED
    _, report = _read(tmp_path / "out")
    rows = {entry["name"]: entry for entry in report["tensors"]}
    errors = report["candidates"]["relmse"]
    hard = [name for name in errors if ".2." in name]
    assert len(hard) == 3
    assert all(errors[name][0] > 0.15 and rows[name]["bits"] > 2 for name in hard)
    assert all(rows[name]["sqnr_db"] >= 9.3 for name in errors if rows[name]["bits"])

    free = {"budget": 3.4, "group_size": 64, "bits": 2, "fallback": {"enabled": False}}
    job = begin(tmp_path, source, tmp_path / "free", **free)
    assert finish(job).state is JobState.SUCCEEDED
    manifest, _ = _read(tmp_path / "free")
    assert manifest["totals"]["bits_per_weight"] <= 3.4


def test_too_small_a_budget_is_refused_with_the_least_there_is(
    tmp_path: Path, source: Path
) -> None:
    job = begin(tmp_path, source, tmp_path / "out", budget=1.0, group_size=64)
    last = finish(job)
    assert last.state is JobState.FAILED
    assert last.error is not None
    assert last.error["code"] == "budget_infeasible"
    assert last.error["phase"] == "PLANNING"
    assert last.error["where"]["least_bits_per_weight"] > 2
    assert not (tmp_path / "out" / "manifest.json").exists()

    # Sizes alone would fit; what was measured needs wider codes than these.
    gate = {"min_sqnr_db": 45.0}
    job = begin(tmp_path, source, tmp_path / "high", budget=4.0, group_size=64, fallback=gate)
    last = finish(job)
    assert last.error is not None
    assert (last.error["code"], last.error["phase"]) == ("budget_infeasible", "ALLOCATING")
    assert last.error["where"]["least_bits_per_weight"] > 8


def test_the_edge_profile_aims_at_three_bits_and_says_how_far_off_it_is(
    tmp_path: Path, source: Path
) -> None:
    edge = resolve(Recipe(profile="edge")).budget
    assert edge is not None
    assert (edge.bits_per_weight, edge.on_infeasible) == (3.0, "least")
    aim = {"bits_per_weight": 3.0, "on_infeasible": "least"}
    job = begin(tmp_path, source, tmp_path / "out", budget=aim)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    manifest, report = _read(tmp_path / "out")
    assert manifest["recipe"]["resolved"]["budget"]["bits_per_weight"] == 3.0
    told = [warning["code"] for warning in manifest["warnings"]]
    assert ("budget_exceeded" in told) == (manifest["totals"]["bits_per_weight"] > 3.0)
    assert report["summary"]["budget"]["bytes"] == 3 * manifest["totals"]["parameters"] // 8


def test_rules_go_before_the_budget(tmp_path: Path, source: Path) -> None:
    rules = [
        {"match": "*.v_proj.weight", "bits": 8},
        {"match": "model.embed_tokens.weight", "action": "keep"},
    ]
    job = begin(tmp_path, source, tmp_path / "out", budget=9.0, rules=rules)
    assert finish(job).state is JobState.SUCCEEDED
    manifest, report = _read(tmp_path / "out")
    rows = {entry["name"]: entry for entry in report["tensors"]}
    assert {rows[n]["bits"] for n in rows if "v_proj" in n} == {8}
    assert rows["model.embed_tokens.weight"]["bits"] == 0
    names = set(manifest["recipe"]["resolved"]["allocation"]["choice"])
    assert {name.rsplit(".", 2)[1] for name in names} == {"q_proj", "o_proj"}


def test_any_number_of_threads_and_units_gives_the_same(tmp_path: Path) -> None:
    """Tensors in several units are measured in pieces, and added in one order."""
    cols = 1024
    rows = 2 * MIN_UNIT_BYTES // (4 * cols)
    tensors = {
        "blocks.0.fc1.weight": weights.tensor(weights.gaussian((rows, cols), 1)),
        "blocks.1.fc1.weight": weights.tensor(weights.gaussian((rows // 8, cols), 2)),
    }
    source = weights.write(tmp_path / "model.safetensors", tensors)
    recipe: dict[str, Any] = {"budget": 3.0, "group_size": 64, "bits": 2}
    recipe["budget"] = {"bits_per_weight": 3.0, "candidates": [{"bits": 2}, {"bits": 4}]}
    for name, threads in (("one", 1), ("two", 2)):
        last = finish(begin(tmp_path, source, tmp_path / name, threads=threads, **recipe))
        assert last.state is JobState.SUCCEEDED, last.error
        assert last.progress.units_total > 4
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    assert {k: v for k, v in one.items() if k != "manifest.json"} == {
        k: v for k, v in two.items() if k != "manifest.json"
    }


@pytest.mark.parametrize("kind", [UnitKind.ANALYZE, UnitKind.ALLOCATE, UnitKind.QUANTIZE])
def test_a_worker_that_dies_costs_nothing_but_its_unit(
    tmp_path: Path, source: Path, kind: UnitKind
) -> None:
    recipe: dict[str, Any] = {"budget": 4.0, "group_size": 64, "bits": 2}
    whole = begin(tmp_path, source, tmp_path / "whole", **recipe)
    assert finish(whole).state is JobState.SUCCEEDED

    job = begin(tmp_path, source, tmp_path / "broken", **recipe)
    die_at(job, kind)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    whole_files, broken = digests(tmp_path / "whole"), digests(tmp_path / "broken")
    assert {k for k in whole_files if whole_files[k] != broken.get(k)} <= {"manifest.json"}


def test_a_retry_does_not_measure_again(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begin(tmp_path, source, tmp_path / "out", budget=4.0, group_size=64, bits=2)

    def broken(*args: object) -> None:
        raise ValueError("no parts today")

    with monkeypatch.context() as patch:
        patch.setattr(quantize, "run", broken)
        failed = finish(job)
    assert failed.state is JobState.FAILED
    ledger = job.deps.ledger
    before = failed.resolved["allocations"]
    ledger.retry_job(job.job_id)
    monkeypatch.setattr(analyze, "run", broken)  # nobody asks for it
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    assert last.resolved["allocations"] == before


def test_measurements_of_another_version_are_made_anew(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = begin(tmp_path, source, tmp_path / "out", budget=4.0, group_size=64, bits=2)

    def broken(*args: object) -> None:
        raise ValueError("no parts today")

    with monkeypatch.context() as patch:
        patch.setattr(quantize, "run", broken)
        assert finish(job).state is JobState.FAILED
    job.deps.ledger.retry_job(job.job_id)
    from workers import workshop
    from workers.steps import plan

    def newer() -> dict[str, str]:
        return {"arrowquant": "999"}

    monkeypatch.setattr(plan, "versions", newer)
    monkeypatch.setattr(workshop, "versions", newer)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    states = [
        event.data["phase"]
        for event in job.deps.ledger.events(job.job_id, 0, 1000)
        if event.type.value == "state"
    ]
    assert states.count("ANALYZING") == 2


def test_several_outputs_with_and_without_a_budget(tmp_path: Path, source: Path) -> None:
    outputs = [
        {"id": "small", "budget": 3.8},
        {"id": "plain", "bits": 4},
        {"id": "large", "budget": {"bytes": 800_000}},
    ]
    job = begin(tmp_path, source, tmp_path / "out", group_size=64, outputs=outputs)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    assert _bytes(tmp_path / "out" / "large") <= 800_000
    alone = begin(tmp_path, source, tmp_path / "alone", group_size=64, budget=3.8)
    assert finish(alone).state is JobState.SUCCEEDED
    same, made = digests(tmp_path / "alone"), digests(tmp_path / "out" / "small")
    assert same["part-00000.arrow"] == made["part-00000.arrow"]
    plain, _ = _read(tmp_path / "out" / "plain")
    assert "allocation" not in plain["recipe"]["resolved"]


def test_the_search_is_never_worse_and_repeats_itself(tmp_path: Path, source: Path) -> None:
    losses = {}
    search = {"group_sizes": [32, 64, 128], "evaluations": 300}
    for name, extra in (
        ("plain", {}),
        ("search", {"search": search}),
        ("again", {"search": search}),
    ):
        budget = {"bits_per_weight": 4.0} | extra
        if not extra:
            sizes = [{"bits": b, "group_size": g} for b in (2, 3, 4, 8) for g in (32, 64, 128)]
            budget["candidates"] = sizes
        job = begin(tmp_path, source, tmp_path / name, bits=2, budget=budget)
        last = finish(job)
        assert last.state is JobState.SUCCEEDED, last.error
        losses[name] = (last.summary or {})["budget"]["loss"]
    assert losses["search"] <= losses["plain"] * (1 + 1e-9)
    assert losses["search"] == losses["again"]


def test_the_gate_of_the_whole_artifact(tmp_path: Path, source: Path) -> None:
    gate = {"min_sqnr_db": 0, "min_cosine": 0, "min_mean_cosine": 0.999}
    job = begin(tmp_path, source, tmp_path / "out", bits=2, fallback=gate)
    last = finish(job)
    assert last.error is not None
    assert last.error["code"] == "quality_below_threshold"
    assert last.error["where"]["min_mean_cosine"] == 0.999
    assert last.error["where"]["tensor"].startswith("model.layers.2.")
    assert not (tmp_path / "out" / "manifest.json").exists()
    job = begin(tmp_path, source, tmp_path / "off", bits=2, fallback={"enabled": False} | gate)
    assert finish(job).state is JobState.SUCCEEDED


def test_three_bits_are_a_rung_where_a_recipe_asks(tmp_path: Path, source: Path) -> None:
    gate = {"min_sqnr_db": 11.0, "min_cosine": 0.9, "ladder": [2, 3, 4, 8]}
    job = begin(tmp_path, source, tmp_path / "out", bits=2, group_size=64, fallback=gate)
    assert finish(job).state is JobState.SUCCEEDED
    _, report = _read(tmp_path / "out")
    rows = {entry["name"]: entry for entry in report["tensors"]}
    assert rows["model.layers.0.self_attn.q_proj.weight"]["bits"] == 3
    assert report["summary"]["worst"] == report["worst"][:3]
