"""Budget and calibration in one job: widths are chosen by what errors do to the output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.domain.job import JobState, UnitKind
from service.usecases.plan import announce
from tests import weights
from tests.client import calibrations
from tests.workers.runs import begin, die_at, digests, finish
from workers.local import TENANT, LocalJob, TwoPlaces, plan_request
from workers.recipes import Options, build

SIZE = 256
NAMES = [
    f"model.layers.{block}.self_attn.{kind}.weight"
    for block in range(4)
    for kind in ("q_proj", "o_proj")
]
# One has a few channels that carry all, and weights that are small there: an error of the weights says
# little of the output's.
ODD = NAMES[2]
RECIPE: dict[str, Any] = {"group_size": 64, "bits": 2, "fallback": {"enabled": False}}


def _values(name: str) -> weights.Array:
    found = weights.gaussian((SIZE, SIZE), 1 + NAMES.index(name))
    if name == ODD:
        found[:, ::64] *= 0.05
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    made = {name: weights.tensor(_values(name)) for name in NAMES}
    return weights.write(tmp_path / "model.safetensors", made)


def _calibrate(path: Path, sensitive: dict[str, float] | None = None) -> Path:
    rng = np.random.default_rng(1)
    fed = {}
    for name in NAMES:
        x = rng.normal(size=(600, SIZE)).astype(np.float32)
        if name == ODD:
            x[:, ::64] *= 30.0
        x[450:] *= np.linspace(0.2, 3.0, SIZE, dtype=np.float32)
        fed[name] = x
    calibrations.write(
        path,
        fed,
        weights={name: weights.tensor(_values(name))[1].tobytes() for name in NAMES},
        times=np.linspace(0, 999, 600),
        sensitive={name: (value, 4) for name, value in (sensitive or {}).items()},
    )
    return path


def _report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    found["rows"] = {entry["name"]: entry for entry in found["tensors"]}
    return found


def _done(job: LocalJob) -> None:
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error


@pytest.mark.parametrize("method", ["weights", "gptq"])
def test_errors_of_the_output_are_measured_and_chosen_by(
    tmp_path: Path, source: Path, method: str
) -> None:
    """What was measured of the chosen candidate is what the tensor has in the end."""
    file = _calibrate(tmp_path / "c.arrow")
    _done(begin(tmp_path, source, tmp_path / "free", budget=4.2, **RECIPE))
    how = {"method": method}
    _done(
        begin(
            tmp_path, source, tmp_path / "out", budget=4.2, measured=file, calibration=how, **RECIPE
        )
    )
    free, found = _report(tmp_path / "free"), _report(tmp_path / "out")
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    choice = manifest["recipe"]["resolved"]["allocation"]["choice"]
    assert set(choice) == set(NAMES)
    for name, number in choice.items():
        row = found["rows"][name]
        assert row["rho"] == pytest.approx(found["candidates"]["relmse"][name][number], rel=1e-3)
    odd = found["candidates"]["relmse"][ODD][0]
    assert odd > 1.1 * free["candidates"]["relmse"][ODD][0]
    # What was made least is the sum of sensitivity times error of the output.
    priors = {
        name: (2 if "o_proj" in name else 1) * (2 if ".0." in name or ".3." in name else 1)
        for name in NAMES
    }
    loss = sum(priors[name] * found["rows"][name]["rho"] for name in NAMES)
    assert found["summary"]["budget"]["loss"] == pytest.approx(loss, rel=1e-3)
    size = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    assert size == manifest["totals"]["artifact_bytes"] <= 4.2 * len(NAMES) * SIZE**2 / 8 + 1
    assert found["summary"]["budget"]["measured_sensitivities"] == 0


def test_measured_sensitivities_go_before_priors(tmp_path: Path, source: Path) -> None:
    """The layer whose output counts a thousandfold gets the widest codes; a recipe may ask for priors."""
    costly = NAMES[5]
    sensitive = dict.fromkeys(NAMES[:-1], 1e-3) | {costly: 1.0}
    file = _calibrate(tmp_path / "c.arrow", sensitive)
    bits = {}
    for name, budget in (
        ("measured", {"bits_per_weight": 4.0}),
        ("priors", {"bits_per_weight": 4.0, "sensitivities": "priors"}),
    ):
        _done(begin(tmp_path, source, tmp_path / name, budget=budget, measured=file, **RECIPE))
        report = _report(tmp_path / name)
        bits[name] = {tensor: row["bits"] for tensor, row in report["rows"].items()}
        told = len(sensitive) if name == "measured" else 0
        assert report["summary"]["budget"]["measured_sensitivities"] == told
    assert bits["measured"][costly] == 8 > bits["priors"][costly]
    assert bits["measured"][costly] == max(bits["measured"].values())

    recipe = build(None, Options(budget="4.0"), str(file))
    store, request = plan_request(str(source), recipe)
    plan = announce(TwoPlaces(store, store, str(file)), TENANT, request)
    assert plan["budget"]["measured_sensitivities"] == len(sensitive)


def test_a_file_without_sensitivities_changes_no_choice(tmp_path: Path, source: Path) -> None:
    file = _calibrate(tmp_path / "c.arrow")
    for name, more in (("auto", {}), ("priors", {"sensitivities": "priors"})):
        budget = {"bits_per_weight": 4.0} | more
        _done(begin(tmp_path, source, tmp_path / name, budget=budget, measured=file, **RECIPE))
    auto, asked = digests(tmp_path / "auto"), digests(tmp_path / "priors")
    assert auto["part-00000.arrow"] == asked["part-00000.arrow"]


def test_candidates_that_miss_the_worst_group_s_bound_are_not_chosen(
    tmp_path: Path, source: Path
) -> None:
    """So nothing is made again, and the budget holds."""
    file = _calibrate(tmp_path / "c.arrow")
    gate = {"min_sqnr_db": 0, "min_cosine": 0, "min_mean_cosine": 0, "max_group_rho": 0.02}
    recipe = RECIPE | {"fallback": gate}
    _done(begin(tmp_path, source, tmp_path / "out", budget=6.0, measured=file, **recipe))
    report = _report(tmp_path / "out")
    assert report["escalations"] == []
    assert all(row["worst_group_rho"] <= 0.02 for row in report["rows"].values())
    free = RECIPE | {"fallback": gate | {"max_group_rho": 1.0}}
    _done(begin(tmp_path, source, tmp_path / "free", budget=3.6, measured=file, **free))
    assert any(row["worst_group_rho"] > 0.02 for row in _report(tmp_path / "free")["rows"].values())


@pytest.mark.parametrize("kind", [UnitKind.ANALYZE, UnitKind.ALLOCATE, UnitKind.QUANTIZE])
def test_a_worker_that_dies_costs_nothing_but_its_unit(
    tmp_path: Path, source: Path, kind: UnitKind
) -> None:
    file = _calibrate(tmp_path / "c.arrow", dict.fromkeys(NAMES, 0.5))
    recipe = {"budget": 4.0, "measured": file} | RECIPE
    _done(begin(tmp_path, source, tmp_path / "whole", **recipe))
    job = begin(tmp_path, source, tmp_path / "broken", **recipe)
    die_at(job, kind)
    _done(job)
    whole, broken = digests(tmp_path / "whole"), digests(tmp_path / "broken")
    assert {k for k in whole if whole[k] != broken.get(k)} <= {"manifest.json"}
