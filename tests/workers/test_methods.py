"""Every method from recipe to reader: planned size, decoded values, replays, threads, fallback."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrowquant
import kernels
from service.domain.job import JobState
from service.domain.places import Place, Source
from service.domain.spec import Recipe
from service.usecases import replays
from service.usecases.plan import announce
from tests import weights
from tests.workers.runs import begin, digests, finish
from workers.local import TENANT, LocalJob, TwoPlaces, plan_request
from workers.workshop import Workshop

NO_GATE = {"fallback": {"enabled": False}}
RECIPES: dict[str, dict[str, Any]] = {
    "superblock-2": {"method": "superblock", "bits": 2},
    "superblock-3": {"method": "superblock", "bits": 3, "unbias": 1.0},
    "superblock-4": {"method": "superblock", "bits": 4, "group_size": 16, "scale_bits": 4},
    "trellis": {"method": "trellis", "bits": 2, "unbias": 1.0},
    "trellis-plain": {"method": "trellis", "bits": 3, "rotation": "none"},
    "hqq": {"method": "hqq", "bits": 4, "group_size": 64},
    "nf4": {"method": "codebook", "codebook": "nf4", "bits": 4, "group_size": 64},
    "lloyd-max": {"method": "codebook", "bits": 3, "group_size": 32},
    "rotated-lsq": {"method": "lsq", "bits": 2, "group_size": 16, "rotation": "hadamard"},
    "rotated-symmetric": {"bits": 3, "granularity": "row", "symmetric": True, "rotation": "hadamard"},
    "rotated-minmax": {"method": "minmax", "bits": 8, "granularity": "tensor", "rotation": "hadamard"},
    "rotated-superblock": {"method": "superblock", "bits": 2, "rotation": "hadamard"},
    "rotated-codebook": {"method": "codebook", "bits": 2, "group_size": 32, "rotation": "hadamard"},
}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("methods")
    tensors = weights.mixed() | {
        "wide.weight": weights.bfloat16(weights.gaussian((48, 1032), 11)),
        "odd.weight": weights.tensor(weights.gaussian((40, 77), 12)),
    }
    return weights.write(folder / "model.safetensors", tensors)


def _expected_totals(source: Path, recipe: dict[str, Any]) -> Any:
    store, request = plan_request(str(source), Recipe(**recipe))
    return announce(TwoPlaces(store, store), TENANT, request)["totals"]  # type: ignore[arg-type]


def _by_kernels(tensor: arrowquant.QuantizedTensor) -> Any:
    """The tensor decoded by the kernels, from the columns of its tiles."""
    tiles = []
    for tile in tensor.stored():
        shape: dict[str, Any] = {"cols": tile.cols, "group_size": max(tile.group_size, 0)}
        rows = (tile.rows, -1)
        if tile.codec == "superblock":
            packed = tile.scale_codes.reshape(rows), tile.min_codes.reshape(rows)
            steps = tile.scales.reshape(rows), tile.mins.reshape(rows)
            shape |= {"bits": tile.bits, "scale_bits": tile.scale_bits}
            values = kernels.dequantize_superblock(tile.codes, *packed, *steps, **shape)
        elif tile.codec == "trellis":
            values = kernels.dequantize_trellis(
                tile.codes, tile.scales, bits=tile.bits, cols=tile.cols
            )
        elif tile.codec == "codebook":
            scales = tile.scales.reshape(rows)
            values = kernels.dequantize_codebook(tile.codes, scales, tile.codebook, **shape)
        else:
            rows = (1, 1) if tile.group_size < 0 else rows
            halves = [None if h is None else h.reshape(rows) for h in (tile.scales, tile.mins)]
            values = kernels.dequantize(tile.codes, *halves, bits=tile.bits, **shape)
        if tile.rotation is not None:
            kernels.unrotate(values, tile.rotation.seed, tile.rotation.block)
        tiles.append(values)
    return np.concatenate(tiles).reshape(tensor.shape)


@pytest.mark.parametrize("name", RECIPES)
def test_from_recipe_to_reader(tmp_path: Path, source: Path, name: str) -> None:
    """Size as planned to the byte, values as the kernels decode them, whole, and made again equal."""
    recipe = RECIPES[name] | NO_GATE
    job = begin(tmp_path, source, tmp_path / "out", threads=1, **recipe)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    expected = _expected_totals(source, recipe)
    totals = json.loads((tmp_path / "out" / "manifest.json").read_text())["totals"]
    for key in ("payload_bytes", "parts_bytes"):
        assert totals[key] == expected[key], key
    with arrowquant.open(tmp_path / "out") as model:
        checked = model.verify(against=source)
        assert checked.ok, checked.problems
        codecs = {tensor.codec for tensor in model.values()}
        for tensor in model.values():
            if tensor.codec != "raw":
                assert np.array_equal(tensor.dequantize(), _by_kernels(tensor)), tensor.name
        turned = {key for key, t in model.items() if any(x.rotation for x in t.stored())}
        rotated = recipe.get("rotation", "hadamard" if name == "trellis" else "none")
        assert ("wide.weight" in turned) == (rotated == "hadamard")
        assert "odd.weight" not in turned
    assert codecs > {"raw"}
    assert _replayed(job, threads=5)["verdict"] == "identical"


def _replayed(job: LocalJob, threads: int) -> Any:
    deps = replace(job.deps, settings=job.deps.settings.model_copy(update={"threads": threads}))
    places = Place(connection="output"), Source(connection="source")
    asked = replays.create(deps.stores, deps.ledger, deps.bell, TENANT, *places).job
    Workshop(deps).run()
    made = replays.get(deps.ledger, TENANT, asked.id)
    assert made.state is JobState.SUCCEEDED, made.error
    return made.summary


def test_any_number_of_threads_writes_the_same_bytes(tmp_path: Path, source: Path) -> None:
    outputs = [{"id": name, **recipe} for name, recipe in RECIPES.items()][:8]
    found = []
    for threads in (1, 3):
        job = begin(tmp_path, source, tmp_path / "out", threads=threads, outputs=outputs, **NO_GATE)
        assert finish(job).state is JobState.SUCCEEDED
        folder = (tmp_path / "out").rename(tmp_path / f"kept{threads}")
        found.append({output["id"]: digests(folder / output["id"]) for output in outputs})
    assert found[0] == found[1]
    assert len({files["part-00000.arrow"] for files in found[0].values()}) == len(outputs)


def test_outputs_of_several_methods_are_those_of_jobs_of_their_own(
    tmp_path: Path, source: Path
) -> None:
    names = ["superblock-2", "rotated-minmax", "nf4", "rotated-lsq"]
    outputs = [{"id": name, **RECIPES[name]} for name in names]
    outputs.append({"id": "plain-minmax", **RECIPES["rotated-minmax"], "rotation": "none"})
    assert finish(begin(tmp_path, source, tmp_path / "all", outputs=outputs, **NO_GATE)).state is (
        JobState.SUCCEEDED
    )
    for output in outputs:
        recipe = {key: value for key, value in output.items() if key != "id"}
        alone = tmp_path / "alone" / output["id"]
        job = begin(tmp_path, source, alone, **recipe, **NO_GATE)
        assert finish(job).state is JobState.SUCCEEDED
        parts = [
            digests(folder)["part-00000.arrow"]
            for folder in (alone, tmp_path / "all" / output["id"])
        ]
        assert parts[0] == parts[1], output["id"]


def test_eight_bits_are_made_by_plain_groups(tmp_path: Path) -> None:
    """Super-blocks have no codes of 8 bits: by role, by rule and up the ladder lsq stands in."""
    names = ("blocks.0.attn.to_q.weight", "blocks.0.adaLN_modulation.weight", "ruled.weight")
    tensors = {n: weights.tensor(weights.gaussian((64, 512), i)) for i, n in enumerate(names)}
    source = weights.write(tmp_path / "model.safetensors", tensors)
    recipe: dict[str, Any] = {
        "method": "superblock",
        "bits": 2,
        "rules": [{"match": "ruled.*", "bits": 8, "group_size": 128}],
    }
    last = finish(job := begin(tmp_path, source, tmp_path / "out", **recipe))
    assert last.state is JobState.SUCCEEDED, last.error
    rows = {row.name: row for row in job.deps.ledger.tensors(last.id)}
    found = {name: (row.codec, row.bits, row.group_size) for name, row in rows.items()}
    assert found["blocks.0.attn.to_q.weight"] == ("superblock", 2, 16)
    assert found["blocks.0.adaLN_modulation.weight"] == ("affine_u", 8, 64)
    assert found["ruled.weight"] == ("affine_u", 8, 128)
    with arrowquant.open(tmp_path / "out") as model:
        assert model.verify(against=source).ok


def test_the_ladder_goes_on_where_a_method_ends(tmp_path: Path) -> None:
    values = weights.gaussian((64, 512), 1)
    source = weights.write(tmp_path / "m.safetensors", {"a.weight": weights.tensor(values)})
    gate = {"min_sqnr_db": 30.0, "min_cosine": 0.5}
    job = begin(
        tmp_path, source, tmp_path / "out",
        method="superblock", bits=2, rotation="hadamard", fallback=gate,
    )  # fmt: skip
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    [row] = job.deps.ledger.tensors(last.id)
    assert [entry["bits"] for entry in row.history] == [2, 4]
    assert (row.codec, row.bits, row.group_size) == ("affine_u", 8, 64)
    with arrowquant.open(tmp_path / "out") as model:
        assert model.verify(against=source).ok
        assert model["a.weight"].stored()[0].rotation is not None


def test_weights_beyond_the_sums_of_a_rotation_are_kept(tmp_path: Path) -> None:
    """Their rotated values would leave float32: no code, and no failure."""
    huge = np.full((64, 64), 3e38, np.float32)
    source = weights.write(tmp_path / "m.safetensors", {"a.weight": weights.tensor(huge)})
    job = begin(tmp_path, source, tmp_path / "out", bits=4, rotation="hadamard")
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    with arrowquant.open(tmp_path / "out") as model:
        assert model["a.weight"].codec == "raw"


def test_a_rotated_tensor_names_its_bad_weight(tmp_path: Path) -> None:
    values = weights.gaussian((64, 64), 1)
    values[5, 7] = np.nan
    source = weights.write(tmp_path / "m.safetensors", {"a.weight": weights.tensor(values)})
    last = finish(begin(tmp_path, source, tmp_path / "out", bits=4, rotation="hadamard"))
    assert last.error is not None
    assert (last.error["code"], last.error["where"]["index"]) == ("non_finite_weights", [5, 7])


def test_rotation_spreads_outliers(tmp_path: Path) -> None:
    """What it is for: a channel of outliers costs 2-bit groups decibels, rotated ones hardly any."""
    values = weights.gaussian((128, 512), 1)
    values[:, ::37] *= 12
    source = weights.write(tmp_path / "m.safetensors", {"a.weight": weights.tensor(values)})
    found = {}
    for rotation in ("none", "hadamard"):
        out = tmp_path / rotation
        finish(begin(tmp_path, source, out, bits=2, group_size=64, rotation=rotation, **NO_GATE))
        [entry] = json.loads((out / "report.json").read_text())["tensors"]
        found[rotation] = entry["sqnr_db"]
    assert found["hadamard"] > found["none"] + 1.0
    assert found["hadamard"] > 9.0


@pytest.mark.parametrize("method", ["lsq", "superblock", "trellis"])
def test_unbias_gives_rows_their_length_back(tmp_path: Path, method: str) -> None:
    values = weights.gaussian((256, 512), 1)
    source = weights.write(tmp_path / "m.safetensors", {"a.weight": weights.tensor(values)})
    gains = {}
    for unbias in (0.0, 1.0):
        out = tmp_path / f"out{unbias}"
        finish(begin(tmp_path, source, out, method=method, bits=2, unbias=unbias, **NO_GATE))
        with arrowquant.open(out) as artifact:
            read = artifact["a.weight"].dequantize().astype(np.float64)
        gains[unbias] = np.sum(values * read) / np.sum(values.astype(np.float64) ** 2)
    assert gains[0.0] < 0.96
    assert gains[1.0] == pytest.approx(1.0, abs=0.01)
