"""The time group in which a layer's output suffers most, and the gates on its error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

import arrowquant
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.cli.app import app
from service.domain.job import JobState
from tests import weights
from tests.client import calibrations
from tests.workers.runs import begin, finish
from tests.workers.test_calibrated import FED, FREE, TENSORS, failed, model, raw, report

__all__ = ["model"]  # a fixture


def by_bin(path: Path, name: str) -> NDArray[np.float64]:
    """E[x^2] of a weight's input in each time bin, one after the other."""
    with CalibrationFile.open(path) as file:
        stats = file.stats(f"{name}#in")
    return np.array([
        stats.sum_sq[stats.bins == g].sum(0) / stats.count[stats.bins == g].sum()
        for g in sorted(set(stats.bins.tolist()))
    ])  # fmt: skip


def timed(path: Path) -> None:
    """Inputs whose channels change places in the last quarter of time."""
    fed = {name: x.copy() for name, x in FED.items()}
    for x in fed.values():
        x[900:] = 3 * x[900:, ::-1]
    times = np.linspace(0, 999, 1200)
    calibrations.write(path, fed, weights={name: raw(name) for name in FED}, times=times)


@pytest.mark.parametrize(
    "recipe",
    [
        {"method": "lsq"},
        {"method": "minmax"},
        {"method": "superblock"},
        {"method": "hqq"},
        {"method": "codebook", "bits": 4},
        {"method": "trellis"},
        {"rotation": "hadamard"},
        {"method": "lsq", "calibration": {"method": "awq"}},
        {"method": "lsq", "calibration": {"method": "gptq"}},
        {"method": "lsq", "smoothing": {"alpha": 0.5}},
    ],
)
def test_the_time_group_in_which_an_output_suffers_most(
    tmp_path: Path, model: Path, recipe: dict[str, Any]
) -> None:
    """Of every method, as the numbers of the file and the decoded weights have it."""
    timed(tmp_path / "c.arrow")
    recipe = {"bits": 2} | recipe
    job = begin(tmp_path, model, tmp_path / "out", measured=tmp_path / "c.arrow", **recipe, **FREE)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    told = report(tmp_path / "out")
    with arrowquant.open(tmp_path / "out") as artifact:
        decoded = {name: artifact[name].dequantize() for name in FED}
    for name, value in decoded.items():
        w = weights.widened(TENSORS[name]).astype(np.float64)
        w, v = w.reshape(len(w), -1), value.reshape(len(w), -1).astype(np.float64)
        rho = [
            ((w - v) ** 2 @ h).sum() / (w**2 @ h).sum() for h in by_bin(tmp_path / "c.arrow", name)
        ]
        assert told[name]["worst_group"] == int(np.argmax(rho))
        assert told[name]["worst_group_rho"] == pytest.approx(max(rho), rel=1e-4)
    assert "worst_group" not in told["blocks.0.mlp.fc2.weight"]
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    listed = document["worst_groups"]
    assert [entry["rho"] for entry in listed] == sorted(
        (told[name]["worst_group_rho"] for name in FED), reverse=True
    )
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["calibration"]["domain"] == "timestep"
    assert manifest["calibration"]["edges"] == list(calibrations.EDGES)
    shown = CliRunner().invoke(app, ["inspect", str(tmp_path / "out")]).stdout
    assert "outputs that suffer most at some time" in shown
    group = told[listed[0]["tensor"]]["worst_group"]
    low, high = calibrations.EDGES[group : group + 2]
    assert f"{group}: timestep {low:g} to {high:g}" in shown


def test_one_time_is_no_group(tmp_path: Path, model: Path) -> None:
    calibrations.write(tmp_path / "c.arrow", FED, weights={name: raw(name) for name in FED})
    job = begin(tmp_path, model, tmp_path / "out", bits=4, measured=tmp_path / "c.arrow", **FREE)
    assert finish(job).state is JobState.SUCCEEDED
    assert all("worst_group" not in entry for entry in report(tmp_path / "out").values())
    assert (
        "edges" not in json.loads((tmp_path / "out" / "manifest.json").read_text())["calibration"]
    )


@pytest.mark.parametrize("bound", ["max_rho", "max_group_rho"])
def test_bounds_on_the_output_make_tensors_wider(
    tmp_path: Path, model: Path, small_units: None, bound: str
) -> None:
    """Only calibrated ones have an output to bound; the reason names the bound."""
    timed(tmp_path / "c.arrow")
    gate = {"min_sqnr_db": 0.0, "min_cosine": 0.0, bound: 0.02}
    job = begin(
        tmp_path, model, tmp_path / "out", measured=tmp_path / "c.arrow", bits=2, fallback=gate
    )
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    told = report(tmp_path / "out")
    where = " in its worst time group" if bound == "max_group_rho" else ""
    measured = "worst_group_rho" if bound == "max_group_rho" else "rho"
    for name in FED:
        assert told[name]["state"] == "FALLBACK"
        assert told[name]["reason"].endswith(f"or output error above 0.02{where} at 2 bits")
        assert told[name][measured] <= 0.02
    assert told["blocks.0.mlp.fc2.weight"]["state"] == "DONE"
    document = json.loads((tmp_path / "out" / "report.json").read_text())
    for entry in document["escalations"]:
        assert all(tried[measured] > 0.02 for tried in entry["tried"])
    job = begin(
        tmp_path, model, tmp_path / "no", measured=tmp_path / "c.arrow", bits=2,
        fallback=gate | {"on_miss": "fail"},
    )  # fmt: skip
    error = failed(job)
    assert error["code"] == "quality_below_threshold"
    assert error["where"][bound] == 0.02
    assert error["where"][measured] > 0.02
