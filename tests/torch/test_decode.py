"""An artifact in torch: a module runs on decoded weights, and torch decodes the parts by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

import arrowquant

pytestmark = pytest.mark.torch

MAIN = "from arrowquant.cli import main; main()"


def quantize(source: Path, target: Path, *options: str) -> None:
    command = [sys.executable, "-c", MAIN, "quantize", str(source), str(target), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def perceptron() -> torch.nn.Module:
    torch.manual_seed(20)
    return torch.nn.Sequential(
        torch.nn.Linear(320, 512),
        torch.nn.GELU(),
        torch.nn.Linear(512, 192),
        torch.nn.LayerNorm(192),
    )


def relative(measured: torch.Tensor, expected: torch.Tensor) -> float:
    return float((measured - expected).norm() / expected.norm())


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


# Min-max codes of weights drawn evenly are off by 1/255 and 1/15 of their size; two layers add up
# to about half as much again, and the bounds leave room for as much once more.
@pytest.mark.parametrize(("bits", "bound"), [(8, 0.012), (4, 0.2)])
def test_a_module_computes_nearly_the_same_from_decoded_weights(
    source: Path, tmp_path: Path, bits: int, bound: float
) -> None:
    module = perceptron()
    save_file(module.state_dict(), source / "model.safetensors")
    quantize(source, tmp_path / "artifact", "--bits", str(bits))

    artifact = arrowquant.open(tmp_path / "artifact")
    assert set(artifact.keys()) == set(module.state_dict())
    decoded = {
        name: torch.from_numpy(np.array(artifact[name].dequantize(dtype="float32")))
        for name in artifact.keys()  # noqa: SIM118 - an artifact is not a dict
    }
    twin = perceptron()
    twin.load_state_dict(decoded)

    batch = torch.randn(64, 320)
    with torch.no_grad():
        error = relative(twin(batch), module(batch))
    assert 0 < error < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_decodes_a_part_to_the_same_bits(
    source: Path, tmp_path: Path, dtype: torch.dtype
) -> None:
    torch.manual_seed(21)
    weights = {
        "wide.weight": (torch.randn(96, 640) * 0.02).to(dtype),
        "odd.weight": (torch.randn(48, 333) * 0.02).to(dtype),
        "norm.weight": torch.randn(640).to(dtype),
    }
    save_file(weights, source / "model.safetensors")
    quantize(source, tmp_path / "artifact", "--bits", "4", "--method", "lsq")

    by_torch = decode_parts(tmp_path / "artifact")
    artifact = arrowquant.open(tmp_path / "artifact")
    assert set(by_torch) == set(weights)
    for name, weight in weights.items():
        by_arrowquant = torch.from_numpy(np.array(artifact[name].dequantize(dtype="float32")))
        assert torch.equal(by_torch[name], by_arrowquant), name
        assert relative(by_torch[name], weight.float()) < 0.15, name


def decode_parts(folder: Path) -> dict[str, torch.Tensor]:
    """A second reader, written from the format's description: only Arrow, JSON and torch."""
    found: dict[str, list[tuple[int, torch.Tensor]]] = {}
    shapes: dict[str, list[int]] = {}
    manifest = json.loads((folder / "manifest.json").read_text())
    for part in manifest["parts"]:
        with pa.memory_map(str(folder / part["name"])) as file:
            for row in pa.ipc.open_file(file).read_all().to_pylist():
                found.setdefault(row["tensor"], []).append((row["row_start"], decode_tile(row)))
                shapes[row["tensor"]] = row["shape"]
    return {
        name: torch.cat([rows for _, rows in sorted(tiles, key=lambda tile: tile[0])]).reshape(
            shapes[name]
        )
        for name, tiles in found.items()
    }


def decode_tile(row: dict) -> torch.Tensor:
    dtypes = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
    rows, cols, bits = row["rows"], row["cols"], row["bits"]
    data = torch.frombuffer(bytearray(row["codes"]), dtype=torch.uint8)
    if row["codec"] == "raw":
        return data.view(dtypes[row["orig_dtype"]]).reshape(rows, cols).float()
    # Least significant bit first, each row from a byte of its own.
    stream = data.reshape(rows, row["row_stride_bytes"], 1) >> torch.arange(8) & 1
    stream = stream.reshape(rows, -1)[:, : cols * bits].reshape(rows, cols, bits)
    codes = (stream.int() << torch.arange(bits)).sum(-1).float()
    size = row["group_size"]
    group = torch.arange(cols) // size if size > 0 else torch.zeros(cols, dtype=torch.int64)
    high = 1 if size < 0 else rows
    scales = torch.tensor(row["scales"], dtype=torch.float32).reshape(high, -1)[:, group]
    if row["codec"] == "sym_s":
        return scales * (codes - 2 ** (bits - 1))
    assert row["codec"] == "affine_u"
    mins = torch.tensor(row["mins"], dtype=torch.float32).reshape(high, -1)[:, group]
    return scales * codes + mins
