"""Verification against a source, and the way back to safetensors."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

import arrowquant
from arrowquant import ArrowQuantError
from arrowquant.artifact import export
from arrowquant.artifact.decode import to_bfloat16
from tests.client import fixtures, naive

PLAIN = ("F32", "F16", "F64", "I64", "BOOL")


def plain_tensors() -> list[naive.Stored]:
    """Those that the safetensors library can write from NumPy."""
    return [t for t in fixtures.sample_tensors() if t.dtype in PLAIN]


def with_true_errors(tensors: list[naive.Stored]) -> list[naive.Stored]:
    """Sources in their own dtype, and the error of each tile as the format defines it."""
    for tensor in tensors:
        if tensor.codec == "raw":
            continue
        assert tensor.source is not None
        assert tensor.expected is not None
        kind = {"F32": np.float32, "F16": np.float16}[tensor.dtype]
        tensor.source = tensor.source.astype(kind)
        width = int(np.prod(tensor.shape[1:]))
        for row in tensor.rows:
            rows = slice(row["row_start"], row["row_start"] + row["rows"])
            w = tensor.source.reshape(-1, width)[rows].astype(np.float64)
            v = tensor.expected.reshape(-1, width)[rows].astype(np.float64)
            row["relmse"] = ((w - v) ** 2).sum() / (w**2).sum()
    return tensors


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """An artifact and its source."""
    tensors = with_true_errors(plain_tensors())
    folder = fixtures.write_artifact(tmp_path / "art", tensors, parts=2)
    source = {t.name: np.asarray(t.source) for t in tensors}
    half = len(source) // 2
    (tmp_path / "src").mkdir()
    save_file(dict(list(source.items())[:half]), tmp_path / "src" / "a.safetensors")
    save_file(dict(list(source.items())[half:]), tmp_path / "src" / "b.safetensors")
    return folder, tmp_path / "src"


def test_a_whole_artifact_verifies(pair: tuple[Path, Path]) -> None:
    folder, source = pair
    alone = arrowquant.verify(folder)
    assert alone.ok
    assert not alone.compared
    result = arrowquant.verify(folder, source)
    assert result.problems == []
    assert result.ok
    assert result.compared
    for check in result.tensors:
        stored = next(t for t in plain_tensors() if t.name == check.name)
        if stored.codec == "raw":
            assert check.exact
        else:
            assert check.sqnr_db is not None
            assert check.sqnr_db > 10
    json.dumps(result.as_dict())
    assert arrowquant.open(folder).verify(source).ok


def test_wrong_figures_are_found(pair: tuple[Path, Path]) -> None:
    folder, source = pair
    report = json.loads((folder / "report.json").read_text())
    report["tensors"][0]["cosine"] = 0.5
    (folder / "report.json").write_text(json.dumps(report))
    manifest = fixtures.read_manifest(folder)
    del manifest["report"]["sha256"]
    fixtures.write_manifest(folder, manifest)
    (problem,) = arrowquant.verify(folder, source).problems
    assert problem.code == "quality_mismatch"
    assert "cosine 0.5" in problem.detail
    assert problem.where == {"tensor": "a.q4"}


def test_another_source_is_told_apart(pair: tuple[Path, Path]) -> None:
    folder, source = pair
    ids = np.arange(30, dtype=np.int64).reshape(10, 3) + 1
    rest: dict[str, NDArray[Any]] = {
        "k.ids": ids,
        "unknown": np.ones(3, np.float32),
        "l.norm": np.ones(3, np.float16),
    }
    (source / "a.safetensors").unlink()
    (source / "b.safetensors").unlink()
    save_file(rest, source / "c.safetensors")
    texts = {str(p) for p in arrowquant.verify(folder, source).problems}
    assert "source_mismatch: raw bytes differ from the source (tensor k.ids)" in texts
    assert "source_mismatch: the source has F16 [3] (tensor l.norm)" in texts
    assert "source_mismatch: the source has no such tensor (tensor a.q4)" in texts
    assert "source_mismatch: the source's tensor is not in the artifact (tensor unknown)" in texts


def test_damage_is_found_and_placed(pair: tuple[Path, Path]) -> None:
    folder, _ = pair
    path = folder / "part-00001.arrow"
    data = bytearray(path.read_bytes())
    row = plain_tensors()[0].rows[1]
    at = data.find(row["codes"])
    data[at + 3] ^= 0x10
    path.write_bytes(data)
    result = arrowquant.verify(folder)
    assert [p.code for p in result.problems] == ["digest_mismatch", "digest_mismatch"]
    assert result.problems[0].where == {"part": "part-00001.arrow"}
    assert result.problems[1].where == {"part": "part-00001.arrow", "batch": 0, "tensor": "a.q4"}
    with pytest.raises(arrowquant.ArtifactError, match="and 1 more"):
        result.raise_for_problems()


def test_tiles_nobody_uses_are_found(pair: tuple[Path, Path]) -> None:
    folder, _ = pair
    manifest = fixtures.read_manifest(folder)
    manifest["tensors"].pop()
    fixtures.write_manifest(folder, manifest)
    (problem,) = arrowquant.verify(folder).problems
    assert "the parts hold" in problem.detail


def test_a_source_that_is_none(pair: tuple[Path, Path], tmp_path: Path) -> None:
    folder, _ = pair
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    for bad in (tmp_path / "x.safetensors", tmp_path / "none", folder):
        with pytest.raises(ArrowQuantError):
            arrowquant.verify(folder, bad)


def test_back_to_safetensors(tmp_path: Path) -> None:
    tensors = fixtures.sample_tensors()
    folder = fixtures.write_artifact(tmp_path / "art", tensors, parts=3, tied=fixtures.TIES)
    (file,) = arrowquant.dequantize(folder, tmp_path / "back.safetensors")
    from arrowquant.artifact.source import open_source

    back = open_source(file)
    assert set(back) == {t.name for t in tensors} | set(fixtures.TIES)
    for tensor in tensors:
        found = back[tensor.name]
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        assert tensor.expected is not None
        if tensor.codec == "raw":
            want = b"".join(row["codes"] for row in tensor.rows)
        elif tensor.dtype == "BF16":
            want = to_bfloat16(tensor.expected).tobytes()
        else:
            want = tensor.expected.astype({"F32": "f4", "F16": "f2"}[tensor.dtype]).tobytes()
        assert found.data.tobytes() == want, tensor.name
    assert back["lm_head.weight"].data.tobytes() == back["embed.weight"].data.tobytes()
    with safe_open(file, "np") as library:
        assert library.metadata() == {"format": "pt"}
        np.testing.assert_array_equal(library.get_tensor("a.q4"), tensors[0].expected)


def test_shards_and_their_index(tmp_path: Path) -> None:
    folder = fixtures.write_artifact(tmp_path / "art", plain_tensors())
    *shards, index = export.dequantize(folder, tmp_path / "back", max_shard_bytes=8000)
    assert len(shards) > 1
    assert shards[0].name == f"model-00001-of-{len(shards):05d}.safetensors"
    weight_map = json.loads(index.read_text())["weight_map"]
    assert set(weight_map) == {t.name for t in plain_tensors()}
    for shard in shards:
        with safe_open(shard, "np") as library:
            assert {weight_map[name] for name in library.keys()} == {shard.name}  # noqa: SIM118
    assert sorted(p.name for p in (tmp_path / "back").iterdir()) == sorted(
        [*(s.name for s in shards), index.name]
    )


def test_what_is_there_stays(tmp_path: Path) -> None:
    folder = fixtures.write_artifact(tmp_path / "art", plain_tensors())
    out = tmp_path / "back.safetensors"
    out.write_text("mine")
    with pytest.raises(ArrowQuantError, match="output_exists"):
        arrowquant.dequantize(folder, out)
    assert out.read_text() == "mine"
    arrowquant.dequantize(folder, out, overwrite=True)
    assert out.stat().st_size > 1000


def test_nothing_is_left_of_a_failed_export(tmp_path: Path) -> None:
    tensors = [*plain_tensors(), naive.quantized("z", (4, 40), "affine_u", 4, 32)]
    tensors[-1].rows[0]["rows"] = 7
    folder = fixtures.write_artifact(tmp_path / "art", tensors)
    with pytest.raises(arrowquant.ArtifactError):
        arrowquant.dequantize(folder, tmp_path / "out" / "back.safetensors")
    assert list((tmp_path / "out").iterdir()) == []


def test_memory_is_bounded(tmp_path: Path) -> None:
    """64 MiB of weights pass through a few MiB; a result takes its own size and little more."""
    import google_crc32c

    rows, cols, tiles = 4096, 4096, 4
    tensor = naive.Stored("big", (rows, cols), "F32", "affine_u", 4, 128)
    step = rows // tiles
    rng = np.random.default_rng(0)
    for index in range(tiles):
        codes = rng.bytes(step * cols // 2)
        scales = np.full(step * cols // 128, 0.01, np.float16)
        naive.tile_row(
            tensor, index, index * step, step, cols,
            row_stride_bytes=cols // 2, codes=codes, scales=scales, mins=scales,
            crc32c=google_crc32c.value(codes),
        )  # fmt: skip
    folder = tmp_path / "art"
    tensor.expected = np.ones((2, 2), np.float32)
    tensor.source = tensor.expected * np.float32(1.5)
    fixtures.write_artifact(folder, [tensor], parts=2)
    tensor.rows.clear()
    model = arrowquant.open(folder)
    model["big"].stored()
    tracemalloc.start()
    try:
        arrowquant.dequantize(model, tmp_path / "big.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 12 * 2**20
        tracemalloc.reset_peak()
        assert model.verify().ok
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
        tracemalloc.reset_peak()
        values = model["big"].dequantize()
        assert tracemalloc.get_traced_memory()[1] < values.nbytes + 12 * 2**20
    finally:
        tracemalloc.stop()
