"""GPTQ, AWQ and bias correction in jobs: the layer's output is nearer, on the very inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import arrowquant
from arrowquant.artifact.source import open_source
from service.domain.job import JobState
from service.domain.limits import Limits
from tests import weights
from tests.client import calibrations
from tests.workers.runs import begin, digests, finish
from tests.workers.test_calibrated import FREE, activations, failed, report

NAME, CONV = "blocks.0.attn.qkv.weight", "blocks.0.conv.weight"
TENSORS = {
    NAME: weights.tensor(weights.gaussian((72, 256), 1)),
    CONV: weights.bfloat16(weights.gaussian((48, 32, 3, 3), 3)),
    "blocks.0.attn.qkv.bias": weights.tensor(weights.gaussian((72,), 5)),
}
FED = {NAME: activations(1, 256), CONV: activations(3, 288)}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return weights.write(tmp_path / "model.safetensors", TENSORS)


def measure(path: Path, moment: str, block: int = 512) -> Path:
    bound = {name: TENSORS[name][1].tobytes() for name in FED}
    calibrations.write(path, FED, weights=bound, moment=moment, block=block)
    return path


def matrices(folder: Path, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    with arrowquant.open(folder) as artifact:
        v = artifact[name].dequantize().astype(np.float64)
    w = weights.widened(TENSORS[name]).astype(np.float64)
    return w.reshape(len(w), -1), v.reshape(len(v), -1)


def rho(folder: Path, name: str, h: NDArray[np.float64]) -> float:
    w, v = matrices(folder, name)
    return float(np.sum(((w - v) @ h) * (w - v)) / np.sum((w @ h) * w))


GROUPS = {"bits": 2, "group_size": 64}
SUPER = {"bits": 2, "method": "superblock"}


def made(
    tmp_path: Path,
    model: Path,
    out: str,
    file: Path | None,
    recipe: dict[str, Any] = GROUPS,
    **how: Any,
) -> Path:
    extra = {} if file is None else {"measured": file, "calibration": how}
    job = begin(tmp_path, model, tmp_path / out, **(FREE | recipe | extra))
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    return tmp_path / out


def moments(name: str) -> NDArray[np.float64]:
    x = FED[name].astype(np.float64)
    return x.T @ x / len(x)


def test_each_step_brings_the_output_nearer(tmp_path: Path, model: Path) -> None:
    """By the true second moments of the inputs."""
    file = measure(tmp_path / "full.arrow", "full")
    plain = made(tmp_path, model, "plain", None)
    weighted = made(tmp_path, model, "weighted", file)
    awq = made(tmp_path, model, "awq", file, method="awq")
    gptq = made(tmp_path, model, "gptq", file, method="gptq", block="full", shrinkage=0.0)
    ordered = made(
        tmp_path, model, "ordered", file, method="gptq", block="full", shrinkage=0.0, act_order=True
    )
    for name in FED:
        h = moments(name)
        found = [rho(folder, name, h) for folder in (plain, weighted, awq, gptq, ordered)]
        assert found[1] < 0.85 * found[0], (name, found)
        assert found[2] < 0.85 * found[0], (name, found)
        assert found[3] < 0.6 * found[1], (name, found)
        assert found[4] < 0.6 * found[1], (name, found)
        # What is reported is what it says: under the moments of the file, all of them.
        assert report(gptq)[name]["rho"] == pytest.approx(found[3], rel=1e-3)
        diagonal = np.diag(np.diag(h))
        assert report(awq)[name]["rho"] == pytest.approx(rho(awq, name, diagonal), rel=1e-3)
    with arrowquant.open(awq) as artifact:
        assert artifact[NAME].stored()[0].col_scale is not None
    assert arrowquant.verify(awq, model).ok
    assert arrowquant.verify(gptq, model).ok


def test_scales_of_two_levels_and_factors_before_them(tmp_path: Path, model: Path) -> None:
    file = measure(tmp_path / "full.arrow", "full")
    whole = {"block": "full", "shrinkage": 0.0, "act_order": True}
    weighted = made(tmp_path, model, "weighted", file, SUPER)
    gptq = made(tmp_path, model, "gptq", file, SUPER, method="gptq", **whole)
    both = made(tmp_path, model, "both", file, SUPER, method="awq_gptq", **whole)
    for name in FED:
        h = moments(name)
        found = [rho(folder, name, h) for folder in (weighted, gptq, both)]
        assert found[1] < 0.6 * found[0], (name, found)
        assert found[2] < 0.7 * found[0], (name, found)
        for folder, expected in ((gptq, found[1]), (both, found[2])):
            assert report(folder)[name]["rho"] == pytest.approx(expected, rel=1e-3)
            assert report(folder)[name]["codec"] == "superblock"
    with arrowquant.open(both) as artifact:
        assert artifact[NAME].stored()[0].col_scale is not None
    for folder in (gptq, both):
        assert arrowquant.verify(folder, model).ok


@pytest.mark.parametrize("recipe", [GROUPS, SUPER])
@pytest.mark.parametrize("method", ["gptq", "awq_gptq"])
def test_the_gain_of_the_output_is_given_back(
    tmp_path: Path, model: Path, recipe: dict[str, Any], method: str
) -> None:
    """Row by row, under the moments that GPTQ used, with the same codes."""
    file = measure(tmp_path / "full.arrow", "full")
    how = {"method": method, "block": "full", "shrinkage": 0.0}
    plain = made(tmp_path, model, "plain", file, recipe, **how)
    kept = made(tmp_path, model, "kept", file, recipe | {"unbias": 1.0}, **how)
    for name in FED:
        h = moments(name)
        w, v = matrices(kept, name)
        gains = np.sum((w @ h) * v, axis=1) / np.sum((w @ h) * w, axis=1)
        np.testing.assert_allclose(gains, 1.0, atol=5e-3)  # scales are halves
        w, v = matrices(plain, name)
        gains = np.sum((w @ h) * v, axis=1) / np.sum((w @ h) * w, axis=1)
        assert np.abs(gains - 1.0).max() > 0.02
        assert report(kept)[name]["rho"] == pytest.approx(rho(kept, name, h), rel=1e-3)
    if method == "gptq":  # there the strength of the factors is chosen for what is kept
        with arrowquant.open(plain) as one, arrowquant.open(kept) as two:
            first, second = one[NAME].stored()[0], two[NAME].stored()[0]
            assert bytes(first.codes) == bytes(second.codes)


def test_blocks_are_used_as_they_were_measured(tmp_path: Path, model: Path) -> None:
    """Full moments can be used in any blocks; blocks that were measured not in wider ones."""
    blocks = made(tmp_path, model, "b", measure(tmp_path / "b.arrow", "block", 64), method="gptq")
    for name in FED:
        h, n = moments(name), FED[name].shape[1]
        inside = np.arange(n) // 64
        used = np.where(inside[:, None] == inside, h, 0.0)
        assert report(blocks)[name]["rho"] == pytest.approx(rho(blocks, name, used), rel=1e-3)
    none = made(tmp_path, model, "n", measure(tmp_path / "n.arrow", "none"), method="gptq")
    assert "gptq needs second moments" in report(none)[NAME]["reason"]
    assert report(none)[NAME]["rho"] > report(blocks)[NAME]["rho"]


def test_bytes_do_not_depend_on_threads(tmp_path: Path, model: Path) -> None:
    file = measure(tmp_path / "full.arrow", "full")
    found = []
    for threads in (1, 3):
        how = {"method": "gptq", "block": "full", "act_order": True, "bias_correction": True}
        out = tmp_path / f"out{threads}"
        job = begin(
            tmp_path, model, out, threads=threads, bits=3, measured=file, calibration=how, **FREE
        )
        assert finish(job).state is JobState.SUCCEEDED
        found.append(digests(out)["part-00000.arrow"])
    assert found[0] == found[1]


def test_the_mean_output_is_given_back_to_the_bias(tmp_path: Path, model: Path) -> None:
    file = measure(tmp_path / "n.arrow", "none")
    for method in ("weights", "awq"):
        out = made(tmp_path, model, method, file, method=method, bias_correction=True)
        with arrowquant.open(out) as artifact:
            correction = artifact[NAME].bias_correction()
            assert artifact["blocks.0.attn.qkv.bias"].bias_correction() is None
        assert correction is not None
        w, v = matrices(out, NAME)
        lost = (w - v) @ FED[NAME].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(correction, lost, rtol=1e-4, atol=1e-6)
        [back] = arrowquant.dequantize(out, tmp_path / f"{method}.safetensors")
        written = open_source(back)["blocks.0.attn.qkv.bias"].weights(0, 72)
        expected = TENSORS["blocks.0.attn.qkv.bias"][1] + lost
        np.testing.assert_allclose(written, expected, rtol=1e-4, atol=1e-6)
        assert arrowquant.verify(out, model).ok


def test_moments_that_take_too_much_are_refused(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond the cap whatever the limit, and beyond the limit."""
    file = measure(tmp_path / "full.arrow", "full")
    how = {"method": "gptq", "block": "full"}
    monkeypatch.setattr("workers.memory.MOST_MOMENT_BYTES", 2**20)
    error = failed(begin(tmp_path, model, tmp_path / "a", bits=4, measured=file, calibration=how))
    assert error["code"] == "memory_limit_too_small"
    assert error["where"]["tensor"] in FED
    assert "512 or 1024" in error["hint"]
    monkeypatch.undo()
    monkeypatch.setattr("kernels.gptq_bytes", lambda cols, block: 2**30)
    limits = Limits(threads=1, max_memory_bytes=1200 * 2**20)
    job = begin(
        tmp_path, model, tmp_path / "b", bits=4, measured=file, calibration=how, limits=limits
    )
    assert failed(job)["code"] == "memory_limit_too_small"


def test_moments_of_no_inputs_are_refused(tmp_path: Path, model: Path) -> None:
    """Symmetric, with the right diagonal, and not positive semidefinite."""
    file = measure(tmp_path / "full.arrow", "full")
    data = bytearray(file.read_bytes())
    x = FED[NAME]
    from arrowquant.calibration.reader import CalibrationFile

    with CalibrationFile.open(file) as opened:
        [panel] = opened.panels(f"{NAME}#in")
    at = bytes(data).index(panel.data.tobytes())
    square = panel.data.copy()
    scale = np.sqrt(np.diag(square))
    flipped = -np.outer(scale, scale).astype(np.float32)
    np.fill_diagonal(flipped, np.diag(square))
    data[at : at + square.nbytes] = flipped.tobytes()
    file.write_bytes(bytes(data))
    how = {"method": "gptq", "block": "full", "shrinkage": 0.0}
    error = failed(begin(tmp_path, model, tmp_path / "o", bits=4, measured=file, calibration=how))
    assert error["code"] == "invalid_calibration"
    assert "positive semidefinite" in error["message"]
    assert x.shape[1] == 256
