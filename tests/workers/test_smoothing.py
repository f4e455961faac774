"""Jobs that smooth: columns times factors, the same for a whole tensor, which readers divide by again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import arrowquant
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.cli.request import Options
from arrowquant.errors import ArtifactError
from service.domain.job import JobRecord, JobState
from service.domain.places import Place, Source
from service.domain.smoothing import Aggregate
from service.domain.spec import Recipe
from service.usecases import replays
from tests import weights
from tests.client import calibrations
from tests.workers.runs import begin, digests, finish
from workers import recipes
from workers.local import TENANT
from workers.spatial import scales
from workers.workshop import Workshop

FREE: dict[str, Any] = {"fallback": {"enabled": False}, "unbias": 0.0, "group_size": 64}
BIG, QKV, CONV = "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight", "blocks.0.conv.weight"
TENSORS = {
    QKV: weights.bfloat16(weights.gaussian((96, 256), 1)),
    CONV: weights.tensor(weights.gaussian((48, 32, 3, 3), 2)),
    BIG: weights.tensor(weights.gaussian((9000, 1024), 3)),  # 35 MiB: several tiles and units
}


def inputs(seed: int, n: int) -> NDArray[np.float32]:
    """A few channels are far larger than the others."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(300, n))
    x[:, ::32] *= 40
    x[:, 1] = 0
    return x.astype(np.float32)


FED = {QKV: inputs(1, 256), CONV: inputs(2, 288), BIG: inputs(3, 1024)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model and its calibration file."""
    place = tmp_path_factory.mktemp("smoothed")
    weights.write(place / "model.safetensors", TENSORS)
    calibrations.write(
        place / "c.arrow",
        FED,
        weights={name: TENSORS[name][1].tobytes() for name in FED},
        times=np.linspace(0, 999, 300),
        moment="none",
        keep=50,
    )
    return place


def made(folder: Path, out: Path, name: str, **recipe: Any) -> JobRecord:
    job = begin(
        out, folder / "model.safetensors", out / name, measured=folder / "c.arrow", **FREE, **recipe
    )
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    return last


def test_factors_are_those_of_the_whole_tensor(folder: Path, tmp_path: Path) -> None:
    """Also where its rows lie in several parts; and what readers give is in the basis of the source."""
    made(folder, tmp_path, "out", bits=4, smoothing={"alpha": 0.5})
    assert len(list((tmp_path / "out").glob("part-*.arrow"))) > 1
    with (
        arrowquant.open(tmp_path / "out") as artifact,
        CalibrationFile.open(folder / "c.arrow") as file,
    ):
        for name in FED:
            w = weights.widened(TENSORS[name]).reshape(len(TENSORS[name][1]), -1)
            stats = file.stats(f"{name}#in")
            seen = scales.largest(stats, Aggregate.MEAN, (), np.ones(w.shape[1]))
            expected = scales.smooth(seen, np.abs(w).max(0).astype(np.float64), 0.5, exact=False)
            s = artifact[name].col_scale()
            assert s is not None
            np.testing.assert_array_equal(s, expected.astype(np.float32))
            assert s[1] == 1  # nothing was seen there
            v = artifact[name].dequantize().reshape(w.shape)
            relmse = float(((w - v) ** 2).sum() / (w**2).sum())
            told = {t["name"]: t for t in artifact.report["tensors"]}[name]
            assert told["relmse"] == pytest.approx(relmse, rel=1e-3)
        assert len(artifact[BIG].stored()) > 2
    assert arrowquant.verify(tmp_path / "out", folder / "model.safetensors").ok


def test_quantized_inputs_lose_less(folder: Path, tmp_path: Path) -> None:
    """Four-bit weights on eight-bit inputs with one step each, on the inputs themselves."""
    for name, how in (("plain", {}), ("smoothed", {"smoothing": {}})):
        made(folder, tmp_path, name, bits=4, **how)
    lost = {}
    for name in ("plain", "smoothed"):
        with arrowquant.open(tmp_path / name) as artifact:
            w = weights.widened(TENSORS[QKV]).astype(np.float64)
            x = FED[QKV].astype(np.float64)
            stored = artifact[QKV].col_scale()
            s = np.ones(256) if stored is None else stored.astype(np.float64)
            v = artifact[QKV].dequantize().astype(np.float64) * s
        step = 2 * np.abs(x / s).max() / 255
        error = (np.rint(x / s / step) * step) @ v.T - x @ w.T
        lost[name] = float((error**2).sum() / ((x @ w.T) ** 2).sum())
    assert lost["smoothed"] < 0.8 * lost["plain"]


def test_the_table_says_that_inputs_are_divided(folder: Path, tmp_path: Path) -> None:
    made(folder, tmp_path, "out", bits=4, smoothing={"alpha": 0.5})
    with arrowquant.open(tmp_path / "out") as artifact:
        table = artifact.activations
        assert table.head["divided_by"] == "col_scale"
        assert table.mode == "dynamic_per_token"
        assert table.find(QKV, 10.0).bits == 8
        with pytest.raises(ArtifactError, match="before they are divided"):
            table.find(QKV, 10.0, mode="static")
        resolved = artifact.manifest["recipe"]["resolved"]
        assert resolved["smoothing"] == {"alpha": 0.5, "aggregate": "mean", "activation_bits": 8}


def test_the_same_bytes_at_any_thread_count(folder: Path, tmp_path: Path) -> None:
    how = {"bits": 3, "smoothing": {"aggregate": "salience"}}
    made(folder, tmp_path, "one", threads=1, **how)
    made(folder, tmp_path, "two", threads=2, **how)
    one, two = digests(tmp_path / "one"), digests(tmp_path / "two")
    parts = [name for name in one if name.startswith("part-")]
    assert {n: one[n] for n in parts} == {n: two[n] for n in parts}


def test_outputs_of_one_read_have_their_own_factors(folder: Path, tmp_path: Path) -> None:
    made(
        folder,
        tmp_path,
        "both",
        smoothing={"activation_bits": 0},
        outputs=[{"bits": 4}, {"bits": 2}],
    )
    made(folder, tmp_path, "alone", bits=2, smoothing={"activation_bits": 0})
    both = digests(tmp_path / "both" / "int2")
    alone = digests(tmp_path / "alone")
    assert {n: d for n, d in both.items() if n.startswith("part-")} == {
        n: d for n, d in alone.items() if n.startswith("part-")
    }


@pytest.mark.parametrize(("text", "fields"), [("best", {}), ("0.5", {"alpha": 0.5})])
def test_on_the_command_line(folder: Path, text: str, fields: dict[str, float]) -> None:
    made = recipes.build(None, Options(smoothing=text), str(folder / "c.arrow"))
    assert made.smoothing is not None
    assert made.smoothing.model_dump(exclude_unset=True) == fields
    with pytest.raises(recipes.UsageError, match="is no strength"):
        recipes.build(None, Options(smoothing="much"), str(folder / "c.arrow"))
    with pytest.raises(recipes.UsageError, match="name one"):
        recipes.build(None, Options(smoothing=text), None)


def test_a_replay_finds_the_same(tmp_path: Path) -> None:
    tensors = {QKV: TENSORS[QKV]}
    weights.write(tmp_path / "model.safetensors", tensors)
    calibrations.write(
        tmp_path / "c.arrow", {QKV: FED[QKV]}, weights={QKV: TENSORS[QKV][1].tobytes()}
    )
    job = begin(tmp_path, tmp_path / "model.safetensors", tmp_path / "out",
                measured=tmp_path / "c.arrow", bits=4, smoothing={}, **FREE)  # fmt: skip
    assert finish(job).state is JobState.SUCCEEDED
    deps = job.deps
    places = Place(connection="output"), Source(connection="source", prefix="model.safetensors")
    asked = replays.create(deps.stores, deps.ledger, deps.bell, TENANT, *places).job
    Workshop(deps).run()
    summary = replays.get(deps.ledger, TENANT, asked.id).summary
    assert summary is not None
    assert summary["verdict"] == "identical"


def test_what_is_not_smoothed_says_why(folder: Path, tmp_path: Path) -> None:
    made(folder, tmp_path, "out", bits=4, rotation="hadamard", smoothing={})
    told = json.loads((tmp_path / "out" / "report.json").read_text())["tensors"]
    assert all("smoothing is for codes that are not rotated" in t["reason"] for t in told)


def test_a_file_without_largest_magnitudes_is_refused(folder: Path, tmp_path: Path) -> None:
    """As one made from llama.cpp's imatrix."""
    from dataclasses import replace

    from arrowquant.calibration.writer import CalibrationWriter

    with CalibrationFile.open(folder / "c.arrow") as file:
        inputs = tuple(replace(entry, kept=0) for entry in file.index.inputs)
        index = replace(file.index, inputs=inputs, privacy="aggregate", keep=0)
        with CalibrationWriter(tmp_path / "c.arrow", index) as writer:
            for entry in inputs:
                writer.write(replace(file.stats(entry.id), abs_max=None))
    job = begin(tmp_path, folder / "model.safetensors", tmp_path / "out",
                measured=tmp_path / "c.arrow", bits=4, smoothing={}, **FREE)  # fmt: skip
    last = finish(job)
    assert last.error is not None
    assert last.error["code"] == "invalid_calibration"
    assert last.error["where"]["tensor"] in FED


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ({"smoothing": {}}, "name one"),
        ({"smoothing": {}, "calibration": {"method": "awq"}}, "calibration.method 'weights'"),
        ({"smoothing": {}, "calibration": {}, "budget": 3.0}, "a budget measures tensors without"),
        ({"smoothing": {}, "calibration": {}, "activations": {"mode": "static"}}, "fold the model"),
        ({"smoothing": {"alpha": 1.5}, "calibration": {}}, "less than or equal to 1"),
    ],
)
def test_what_does_not_go_together(recipe: dict[str, Any], why: str) -> None:
    if "calibration" in recipe:
        recipe = recipe | {"calibration": {"connection": "c", "key": "k"} | recipe["calibration"]}
    with pytest.raises(ValueError, match=why):
        Recipe.model_validate(recipe)
