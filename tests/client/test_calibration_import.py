"""What others measured becomes a calibration file: imatrix in both forms, kept activations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file
from typer.testing import CliRunner

from arrowquant.calibration.checking import describe
from arrowquant.calibration.importing import Options, import_file
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.cli.app import app
from arrowquant.errors import CalibrationError
from tests.client import calibrations

Q = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    save_file(
        {
            Q: rng.normal(size=(8, 16)).astype(np.float32),
            "lm_head.weight": rng.normal(size=(8, 16)).astype(np.float16),
            "model.diffusion_model.in.weight": rng.normal(size=(4, 8)).astype(np.float32),
        },
        tmp_path / "model.safetensors",
    )
    return tmp_path / "model.safetensors"


def means(path: Path, weight: str) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    with CalibrationFile.open(path) as file:
        stats = file.stats(file.index.weights[weight].input)
        return stats.mean_square(), stats.mean()


def test_an_imatrix_in_gguf(tmp_path: Path, source: Path) -> None:
    """llama.cpp's names become the source's, and the weights are bound to their digests."""
    rng = np.random.default_rng(1)
    squares, sums = rng.random((1, 16), np.float32) * 10, rng.random((1, 16), np.float32)
    tensors = {
        "blk.0.attn_q.weight.in_sum2": squares,
        "blk.0.attn_q.weight.in_sum": sums,
        "blk.0.attn_q.weight.counts": np.full((1, 1), 20, np.float32),
        "output.weight.in_sum2": squares,
        "output.weight.counts": np.full((1, 1), 5, np.float32),
        "in.weight.in_sum2": rng.random((3, 8), np.float32),
        "in.weight.counts": np.array([[4], [0], [4]], np.float32),
    }
    (tmp_path / "m.gguf").write_bytes(
        calibrations.gguf(tensors, {"imatrix.datasets": ["wiki", "code"]})
    )
    import_file(tmp_path / "m.gguf", tmp_path / "c.arrow", Options(weights=source))
    square, mean = means(tmp_path / "c.arrow", Q)
    np.testing.assert_allclose(square, squares[0].astype(float) / 20)
    np.testing.assert_allclose(mean, sums[0].astype(float) / 20)
    assert means(tmp_path / "c.arrow", "lm_head.weight")[1] is None
    experts, _ = means(tmp_path / "c.arrow", "model.diffusion_model.in.weight")
    np.testing.assert_allclose(experts, tensors["in.weight.in_sum2"].astype(float).sum(axis=0) / 8)
    found = describe(tmp_path / "c.arrow", source)
    assert (found["weights"], found["bound"], found["mismatches"]) == (3, 3, [])
    assert found["meta"]["datasets"] == "wiki, code"


def test_an_imatrix_of_the_older_form(tmp_path: Path) -> None:
    values = np.arange(1, 17, dtype=np.float32)
    (tmp_path / "m.dat").write_bytes(calibrations.legacy({Q: (4, values), "x": (0, values)}))
    import_file(tmp_path / "m.dat", tmp_path / "c.arrow", Options())
    square, mean = means(tmp_path / "c.arrow", Q)
    np.testing.assert_allclose(square, values / 4)
    assert mean is None
    found = describe(tmp_path / "c.arrow", None)
    assert (found["weights"], found["bound"]) == (1, 0)
    assert found["meta"] == {"chunk_count": "7", "datasets": "wiki"}


def test_names_may_be_told(tmp_path: Path, source: Path) -> None:
    (tmp_path / "m.dat").write_bytes(
        calibrations.legacy(
            {"mine": (2, np.ones(16, np.float32)), "none": (2, np.ones(3, np.float32))}
        )
    )
    import_file(
        tmp_path / "m.dat", tmp_path / "c.arrow", Options(weights=source, names={"mine": Q})
    )
    with CalibrationFile.open(tmp_path / "c.arrow") as file:
        assert list(file.index.weights) == [Q]


def _gguf_with(change: Any) -> bytes:
    good = calibrations.gguf(
        {
            "a.in_sum2": np.ones((1, 8), np.float32),
            "a.counts": np.ones((1, 1), np.float32),
        }
    )
    return bytes(change(bytearray(good)))


def _put(at: int, data: bytes) -> Any:
    def apply(content: bytearray) -> bytearray:
        content[at : at + len(data)] = data
        return content

    return apply


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_gguf_with(_put(4, b"\x01")), "version 1"),
        (_gguf_with(_put(8, b"\xff" * 8)), "a count of"),
        (_gguf_with(_put(16, b"\xff\xff\xff\x7f")), "a count of"),
        (_gguf_with(_put(24, b"\xff" * 7)), "a count of"),
        (_gguf_with(lambda c: c[:-40]), "reaches past the end"),
        (_gguf_with(lambda c: c[:60]), "not a readable imatrix|ends before"),
        (_gguf_with(lambda c: c.replace(b"imatrix", b"model!!", 1)), "not an imatrix"),
        (_gguf_with(lambda c: c.replace(b"a.counts", b"b.counts")), "counts are missing"),
        (calibrations.legacy({"a": (1, np.ones(4, np.float32))})[:20], "ends before"),
        (b"\xff\xff\xff\x7f" + bytes(9), "a count of"),
        (b"\x01\x00\x00\x00\xff\xff\x00\x00", "a count of"),
        (b"", "not a readable"),
    ],
)  # fmt: skip
def test_broken_imatrices(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "m.gguf").write_bytes(data)
    with pytest.raises(CalibrationError, match=words) as failure:
        import_file(tmp_path / "m.gguf", tmp_path / "c.arrow", Options())
    assert failure.value.code == "invalid_calibration"


def test_negative_squares_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.dat").write_bytes(calibrations.legacy({"a": (1, -np.ones(4, np.float32))}))
    with pytest.raises(CalibrationError, match="negative"):
        import_file(tmp_path / "m.dat", tmp_path / "c.arrow", Options())
    assert not list(tmp_path.glob("c.*"))


def test_other_channels_than_the_weight_has(tmp_path: Path, source: Path) -> None:
    (tmp_path / "m.dat").write_bytes(calibrations.legacy({Q: (1, np.ones(15, np.float32))}))
    with pytest.raises(CalibrationError, match="15 channels") as failure:
        import_file(tmp_path / "m.dat", tmp_path / "c.arrow", Options(weights=source))
    assert failure.value.code == "calibration_mismatch"


@pytest.mark.parametrize("form", ["safetensors", "wide.parquet", "long.parquet", "long.arrow"])
def test_activations(tmp_path: Path, source: Path, form: str) -> None:
    x = calibrations.activations(np.random.default_rng(2), 90, 16)
    times = np.linspace(0, 999, 90)
    place = tmp_path / f"x.{form}"
    long = pa.table(
        {"weight": [Q] * 90, "values": x.tolist(), "t": times, "branch": ["cond"] * 90},
        schema=pa.schema(
            [("weight", pa.utf8()), ("values", pa.list_(pa.float32())), ("t", pa.float64()), ("branch", pa.utf8())]
        ),
    )  # fmt: skip
    if form == "safetensors":
        save_file({Q: x.reshape(9, 10, 16)}, place)
    elif form == "wide.parquet":
        pq.write_table(pa.table({Q: pa.FixedSizeListArray.from_arrays(x.reshape(-1), 16)}), place)
    elif form == "long.parquet":
        pq.write_table(long, place, row_group_size=25)
    else:
        with pa.ipc.new_file(str(place), long.schema) as writer:
            writer.write_table(long, max_chunksize=40)
    options = Options(
        weights=source, moments="full", keep=12, domain="timestep", edges=calibrations.EDGES
    )
    import_file(place, tmp_path / "c.arrow", options)
    square, mean = means(tmp_path / "c.arrow", Q)
    wide = x.astype(np.float64)
    np.testing.assert_allclose(square, (wide**2).mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(mean, wide.mean(axis=0), atol=1e-9)
    found = describe(tmp_path / "c.arrow", source)
    assert found["mismatches"] == []
    assert found["privacy"] == "samples"
    with CalibrationFile.open(tmp_path / "c.arrow") as file:
        stats = file.stats(f"{Q}#in")
        assert stats.count.tolist() == ([23, 22, 45] if form.startswith("long") else [90])
        assert set(stats.branches) == ({"cond"} if form.startswith("long") else {""})


def test_what_is_no_activation(tmp_path: Path) -> None:
    place = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [[1.0, 2.0], [1.0]]}), place)
    with pytest.raises(CalibrationError, match="one length"):
        import_file(place, tmp_path / "c.arrow", Options())
    pq.write_table(pa.table({"a": [1.0]}), place)
    with pytest.raises(CalibrationError, match="no list of numbers"):
        import_file(place, tmp_path / "c.arrow", Options())
    place.write_bytes(b"PAR1 and no more")
    with pytest.raises(CalibrationError, match="not readable as Parquet"):
        import_file(place, tmp_path / "c.arrow", Options())
    other = tmp_path / "x.pickle"
    other.write_bytes(b"")
    with pytest.raises(CalibrationError, match="not read") as failure:
        import_file(other, tmp_path / "c.arrow", Options())
    assert failure.value.code == "unsupported_format"


def run(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["calibration", *map(str, words)])
    return done.exit_code, done.output


def test_the_commands(tmp_path: Path, source: Path) -> None:
    x = calibrations.activations(np.random.default_rng(3), 40, 16)
    save_file({Q: x}, tmp_path / "x.safetensors")
    for name in ("a", "b"):
        code, shown = run(
            "import", tmp_path / "x.safetensors", tmp_path / f"{name}.arrow", "--weights", source
        )
        assert code == 0, shown
    code, shown = run(
        "merge", tmp_path / "c.arrow", tmp_path / "a.arrow", tmp_path / "b.arrow", "--json"
    )
    assert code == 0, shown
    assert json.loads(shown)["vectors"] == 80
    code, shown = run("info", tmp_path / "c.arrow", "--weights", source)
    assert code == 0
    assert "1 of 1 bound to digests" in shown
    other = tmp_path / "other.safetensors"
    save_file({Q: np.zeros((8, 16), np.float32)}, other)
    code, shown = run("info", tmp_path / "c.arrow", "--weights", other)
    assert code == 1
    assert f"{Q} has other bytes" in shown
    assert run("info", tmp_path / "x.safetensors")[0] == 2
    assert (
        run("import", tmp_path / "x.safetensors", tmp_path / "d.arrow", "--moments", "odd")[0] == 2
    )
