"""The table of activations of calibrated jobs: made from what was seen at each time, kept beside the parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import arrowquant
from service.domain.job import JobState
from service.domain.places import Place, Source
from service.domain.spec import Recipe, resolve
from service.usecases import replays
from tests import weights
from tests.client import calibrations
from tests.workers.runs import begin, digests, finish
from workers.local import TENANT, LocalJob
from workers.workshop import Workshop

NAMES = ("blocks.0.attn.qkv.weight", "blocks.0.mlp.fc1.weight")
TENSORS = {
    NAMES[0]: weights.tensor(weights.gaussian((96, 64), 1)),
    NAMES[1]: weights.tensor(weights.gaussian((64, 64), 2)),
    "blocks.0.mlp.fc2.weight": weights.tensor(weights.gaussian((64, 64), 3)),
    "blocks.0.attn.qkv.bias": weights.tensor(weights.gaussian((96,), 4)),
}
TIMES = np.linspace(0, 999, 1500)
PLAIN = {"fallback": {"enabled": False}, "bits": 4}


def seen(seed: int) -> NDArray[np.float32]:
    """Activations whose size falls eightfold between the first bin of time and the others."""
    rng = np.random.default_rng(seed)
    size = np.where(calibrations.EDGES[1] > TIMES, 8.0, 1.0)
    return (rng.standard_t(6, (len(TIMES), 64)) * size[:, None]).astype(np.float32)


FED = {name: seen(number) for number, name in enumerate(NAMES)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return weights.write(tmp_path / "model.safetensors", TENSORS)


def measured(folder: Path, keep: int = 0) -> Path:
    calibrations.write(
        folder / "c.arrow",
        FED,
        weights={name: TENSORS[name][1].tobytes() for name in FED},
        times=TIMES,
        keep=keep,
    )
    return folder / "c.arrow"


def made(tmp_path: Path, model: Path, calibration: Path, **activations: Any) -> arrowquant.Artifact:
    recipe: dict[str, Any] = PLAIN | ({"activations": activations} if activations else {})
    job = begin(tmp_path, model, tmp_path / "out", measured=calibration, **recipe)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    return arrowquant.open(tmp_path / "out")


def lost(artifact: arrowquant.Artifact, name: str, mode: Any = "static") -> float:
    """Squared error over signal when every activation is quantized as its time says."""
    total = 0.0
    for x, t in zip(FED[name], TIMES, strict=True):
        total += float(np.sum((artifact.activation(name, t, mode=mode).simulate(x) - x) ** 2))
    return total / float(np.sum(FED[name].astype(np.float64) ** 2))


def test_times_are_told_apart_and_that_pays(tmp_path: Path, model: Path) -> None:
    (tmp_path / "one").mkdir()
    calibration = measured(tmp_path)
    timed = made(tmp_path, model, calibration, bits=4)
    one = made(tmp_path / "one", model, calibration, bits=4, groups=1)
    assert timed.activations.layers == NAMES
    assert timed.activations.domain == "timestep"
    for name in NAMES:
        early, late = (timed.activation(name, t, mode="static") for t in (10, 700))
        assert early.scale is not None
        assert late.scale is not None
        assert early.scale > 3 * late.scale
        # 250 and up is all alike: two groups are enough.
        assert (early.t_hi, late.t_lo, late.t_hi) == (250.0, 250.0, 1000.0)
        assert lost(timed, name) < 0.8 * lost(one, name)
        assert early.expected_error is not None
    told = timed.report["activations"]
    assert told["groups"] == 2
    assert told["expected_error"]["optimal"][0] == pytest.approx(
        np.mean([lost(one, name) for name in NAMES]), rel=0.1
    )


def test_range_of_all_that_was_seen(tmp_path: Path, model: Path) -> None:
    artifact = made(tmp_path, model, measured(tmp_path), bits=8, groups=1, clip="minmax")
    for name in NAMES:
        x = FED[name]
        found = artifact.activation(name, 0, mode="static")
        assert found.scale == pytest.approx((x.max() - x.min()) / 255, rel=1e-6)
        assert np.abs(found.simulate(x) - x).max() <= 0.51 * found.scale * 1.01 + 0.5 * found.scale


@pytest.mark.parametrize(("boundaries", "cut"), [("uniform", 500.0), ("quantile", 500.0)])
def test_plain_boundaries(tmp_path: Path, model: Path, boundaries: str, cut: float) -> None:
    artifact = made(tmp_path, model, measured(tmp_path), groups=2, boundaries=boundaries)
    assert artifact.activation(NAMES[0], 0, mode="static").t_hi == cut
    told = artifact.report["activations"]["expected_error"]
    assert told["optimal"][1] <= told[boundaries][1]


def test_each_token_its_own_is_measured_where_activations_were_kept(
    tmp_path: Path, model: Path
) -> None:
    artifact = made(tmp_path, model, measured(tmp_path, keep=64), bits=4)
    told = artifact.report["activations"]
    assert set(told["sampled_error"]) == {"static", "dynamic_per_token", "vectors"}
    assert told["sampled_error"]["vectors"] == 64 * len(NAMES)
    best = min(("dynamic_per_token", "static"), key=lambda mode: told["sampled_error"][mode])
    assert artifact.activations.mode == told["mode"] == best
    assert artifact.activation(NAMES[0], 5).scale is None or best == "static"
    both = [lost(artifact, NAMES[0], mode) for mode in ("static", "dynamic_per_token")]
    assert (both[0] < both[1]) == (best == "static")


def test_without_kept_activations_each_token_has_its_own(tmp_path: Path, model: Path) -> None:
    artifact = made(tmp_path, model, measured(tmp_path))
    assert artifact.activations.mode == "dynamic_per_token"
    assert artifact.manifest["activations"]["bits"] == 8
    assert "sampled_error" not in artifact.report["activations"]
    with pytest.raises(arrowquant.ArtifactError, match="saw no input"):
        artifact.activation("blocks.0.mlp.fc2.weight", 5)


def test_it_is_part_of_the_artifact(tmp_path: Path, model: Path) -> None:
    """Its bytes count, are verified, do not depend on threads, and are the same on a replay."""
    calibration = measured(tmp_path)
    made(tmp_path, model, calibration)
    out = tmp_path / "out"
    with arrowquant.open(out) as artifact:
        assert artifact.verify().problems == []
        total = sum(path.stat().st_size for path in out.iterdir())
        assert artifact.manifest["totals"]["artifact_bytes"] == total
    (tmp_path / "again").mkdir()
    made(tmp_path / "again", model, calibration)
    assert digests(tmp_path / "again" / "out") == digests(out)
    job = begin(tmp_path, model, tmp_path / "third", measured=calibration, **PLAIN)
    finish(job)
    assert _replayed(job, model.name)["verdict"] == "identical"
    (tmp_path / "third" / "activations.arrow").write_bytes(b"something else")
    assert _replayed(job, model.name)["parts"] == [
        {"part": "activations.arrow", "problem": "stored_part_is_not_the_manifest_s"}
    ]
    (out / "activations.arrow").write_bytes(b"something else")
    with arrowquant.open(out) as artifact:
        assert [p.code for p in artifact.verify().problems] == ["digest_mismatch"]


def _replayed(job: LocalJob, source: str) -> dict[str, Any]:
    deps = job.deps
    places = Place(connection="output"), Source(connection="source", prefix=source)
    asked = replays.create(deps.stores, deps.ledger, deps.bell, TENANT, *places).job
    Workshop(deps).run()
    return replays.get(deps.ledger, TENANT, asked.id).summary or {}


def test_a_recipe_may_do_without(tmp_path: Path, model: Path) -> None:
    artifact = made(tmp_path, model, measured(tmp_path), mode="none")
    assert "activations" not in artifact.manifest
    assert not (tmp_path / "out" / "activations.arrow").exists()
    with pytest.raises(ValueError, match="calibration file"):
        Recipe.model_validate({"activations": {"bits": 8}})
    assert resolve(Recipe()).activations is None


def test_replacing_takes_the_old_table_away(tmp_path: Path, model: Path) -> None:
    calibration = measured(tmp_path)
    made(tmp_path, model, calibration)
    job = begin(
        tmp_path, model, tmp_path / "out", measured=calibration, replace=True, **PLAIN | {"bits": 8}
    )
    assert finish(job).state is JobState.SUCCEEDED
    with arrowquant.open(tmp_path / "out") as artifact:
        name = artifact.manifest["activations"]["name"]
        assert name != "activations.arrow"
        assert artifact.activation(NAMES[0], 5).bits == 8
        assert artifact.verify().problems == []
