"""Compiling takes more memory than quantizing: it is done elsewhere, before a job's limit counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.domain.job import JobState
from service.domain.limits import Limits
from tests import weights
from tests.client import calibrations
from tests.workers.runs import begin, finish
from workers import precompile
from workers.kernel_cache import VARIABLE

RECIPES: list[dict[str, Any]] = [
    {"bits": 2, "method": "superblock", "group_size": 16},
    {"bits": 4, "method": "minmax", "granularity": "tensor"},
    {"bits": 2, "method": "lsq", "group_size": 32, "rotation": "hadamard"},
    {"bits": 4, "method": "codebook", "codebook": "nf4"},
]


def test_a_first_run_keeps_within_its_limit(tmp_path: Path) -> None:
    """With no kernel compiled yet, a command takes as little as it does later."""
    tensors = {
        f"blocks.{n}.mlp.up.weight": weights.bfloat16(weights.gaussian((2048, 4096), n))
        for n in range(3)
    }
    weights.write(tmp_path / "model" / "model.safetensors", tensors)
    note = tmp_path / "peak.json"
    command = [
        str(Path(sys.executable).with_name("arrowquant")),
        "quantize",
        str(tmp_path / "model"),
    ]
    command += [str(tmp_path / "out"), "--bits", "2", "--method", "superblock", "--json"]
    command += ["--group-size", "16", "--max-memory", "400MiB"]
    data = {"ARROWQUANT_DATA_DIR": str(tmp_path / "data"), VARIABLE: str(tmp_path / "numba")}
    subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", str(note), *command],
        cwd=Path(__file__).parents[2],
        env=os.environ | data,
        check=True,
        timeout=500,
    )
    measured = json.loads(note.read_text())
    assert measured["status"] == 0
    assert measured["peak_rss_bytes"] < 400 * 2**20
    assert list((tmp_path / "numba").rglob("compiled-*"))


class _Children:
    """Does in this process what children would do, so that nothing is compiled that is there."""

    def __init__(self) -> None:
        self.begun: list[int] = []

    def run(self, command: list[str], **given: Any) -> None:
        assert command[1:] == ["-m", "workers.precompile"]
        tensors = precompile._TENSORS.validate_json(given["input"])
        self.begun.append(len(tensors))
        for tensor in tensors:
            precompile.exercise(tensor)


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> _Children:
    """No kernel is known to be compiled, and memory is short whatever this process holds."""
    found = _Children()
    monkeypatch.setattr(precompile, "COMPILING_BYTES", 2**40)
    monkeypatch.setattr(precompile, "_known", set())
    monkeypatch.setattr(precompile.subprocess, "run", found.run)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "numba"))
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_way_is_compiled_once(
    tmp_path: Path, children: _Children, monkeypatch: pytest.MonkeyPatch, recipe: dict[str, Any]
) -> None:
    values = weights.gaussian((128, 256), 1)
    tensors = {
        "blocks.0.a.weight": weights.tensor(values),
        "blocks.0.b.weight": weights.tensor(values.astype(np.float16)),
        "blocks.0.c.weight": weights.bfloat16(values),
        "blocks.0.d.weight": weights.bfloat16(values),
    }
    source = weights.write(tmp_path / "m.safetensors", tensors)
    limits = Limits(threads=1, max_memory_bytes=8 * 2**30)
    for run in range(2):
        out = tmp_path / f"out{run}"
        job = begin(tmp_path, source, out, limits=limits, fallback={"enabled": False}, **recipe)
        assert finish(job).state is JobState.SUCCEEDED
        assert children.begun == [3]  # one for each type of the weights
        monkeypatch.setattr(precompile, "_known", set())  # another process, later


@pytest.mark.parametrize(
    "how",
    [
        {"bias_correction": True},
        {"method": "awq"},
        {"method": "gptq", "block": "full"},
        {"method": "gptq", "block": 512},
        {"method": "awq_gptq", "block": 512},
    ],
)
def test_calibrated_ways_are_compiled_too(
    tmp_path: Path, children: _Children, how: dict[str, Any]
) -> None:
    name = "blocks.0.mlp.up.weight"
    tensors = {name: weights.tensor(weights.gaussian((64, 512), 1))}
    source = weights.write(tmp_path / "m.safetensors", tensors)
    file = tmp_path / "calibration.arrow"
    fed = {name: calibrations.activations(np.random.default_rng(1), 96, 512)}
    bound = {name: tensors[name][1].tobytes()}
    calibrations.write(file, fed, weights=bound, moment="full", block=512)
    job = begin(
        tmp_path,
        source,
        tmp_path / "out",
        limits=Limits(threads=1, max_memory_bytes=8 * 2**30),
        measured=file,
        calibration=how,
        bits=4,
        group_size=64,
        fallback={"enabled": False},
    )
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    assert children.begun == [1]


def test_without_children_it_compiles_itself(
    tmp_path: Path, children: _Children, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(command: list[str], **_: Any) -> None:
        children.begun.append(0)
        raise OSError("no more processes")

    monkeypatch.setattr(precompile.subprocess, "run", refused)
    tensors = {
        f"blocks.{n}.w.weight": weights.tensor(weights.gaussian((64, 64), n)) for n in (0, 1)
    }
    source = weights.write(tmp_path / "m.safetensors", tensors)
    limits = Limits(threads=1, max_memory_bytes=8 * 2**30)
    last = finish(begin(tmp_path, source, tmp_path / "out", limits=limits, bits=8))
    assert last.state is JobState.SUCCEEDED, last.error
    assert children.begun == [0]  # and does not try again
