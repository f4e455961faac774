"""Jobs with a calibration file: errors count by what they do to the output, and files of other weights
are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import arrowquant
from arrowquant.calibration.reader import CalibrationFile
from service.domain.errors import ArrowQuantError
from service.domain.job import JobRecord, JobState
from service.domain.limits import Limits
from service.domain.places import Place, Source
from service.usecases import replays
from tests import weights
from tests.client import calibrations
from tests.servers import S3Server
from tests.workers.runs import begin, digests, finish
from workers.local import TENANT, LocalJob
from workers.workshop import Workshop

FREE = {"fallback": {"enabled": False}, "unbias": 0.0}


def activations(seed: int, n: int, rows: int = 1200) -> NDArray[np.float32]:
    """Few directions, and channels that differ by a hundred, in no order."""
    rng = np.random.default_rng(seed)
    x = calibrations.activations(rng, rows, n) * np.float32(10) ** rng.uniform(-1, 1, n)
    return x.astype(np.float32)


TENSORS = {
    "blocks.0.attn.qkv.weight": weights.tensor(weights.gaussian((96, 256), 1)),
    "blocks.0.mlp.fc1.weight": weights.bfloat16(weights.gaussian((64, 320), 2)),
    "blocks.0.conv.weight": weights.tensor(weights.gaussian((48, 32, 3, 3), 3)),
    "blocks.0.mlp.fc2.weight": weights.tensor(weights.gaussian((64, 256), 4)),
    "blocks.0.attn.qkv.bias": weights.tensor(weights.gaussian((96,), 5)),
}
FED = {
    "blocks.0.attn.qkv.weight": activations(1, 256),
    "blocks.0.mlp.fc1.weight": activations(2, 320),
    "blocks.0.conv.weight": activations(3, 288),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return weights.write(tmp_path / "model.safetensors", TENSORS)


def raw(name: str) -> bytes:
    return TENSORS[name][1].tobytes()


@pytest.fixture
def measured(tmp_path: Path) -> Path:
    calibrations.write(
        tmp_path / "c.arrow",
        FED,
        weights={name: raw(name) for name in FED},
        times=np.linspace(0, 999, 1200),
    )
    return tmp_path / "c.arrow"


def report(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "report.json").read_text())
    return {entry["name"]: entry for entry in found["tensors"]}


def output_error(folder: Path, name: str) -> float:
    """Of the layer's output on the very inputs: |(W - V) X|^2 / |W X|^2."""
    with arrowquant.open(folder) as artifact:
        v = artifact[name].dequantize().astype(np.float64)
    w = weights.widened(TENSORS[name]).astype(np.float64).reshape(len(v), -1)
    x = FED[name].astype(np.float64)
    return float((((w - v.reshape(len(v), -1)) @ x.T) ** 2).sum() / ((w @ x.T) ** 2).sum())


def failed(job: LocalJob) -> dict[str, Any]:
    last = finish(job)
    assert last.state is JobState.FAILED
    assert last.error is not None
    return last.error


@pytest.mark.parametrize("recipe", [{"method": "lsq", "group_size": 64}, {"method": "superblock"}])
def test_errors_count_by_what_they_do_to_the_output(
    tmp_path: Path, model: Path, measured: Path, recipe: dict[str, Any]
) -> None:
    """Also convolutions, whose channels are the taps; on the inputs themselves, not by our own figure."""
    plain = begin(tmp_path, model, tmp_path / "plain", bits=2, **recipe, **FREE)
    assert finish(plain).state is JobState.SUCCEEDED
    job = begin(tmp_path, model, tmp_path / "out", bits=2, measured=measured, **recipe, **FREE)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    told = report(tmp_path / "out")
    for name, x32 in FED.items():
        before = output_error(tmp_path / "plain", name)
        after = output_error(tmp_path / "out", name)
        assert after < 0.85 * before, (name, before, after)
        # By the diagonal alone: inputs are correlated, so it is near the truth, not the truth.
        x, w = x32.astype(np.float64), weights.widened(TENSORS[name]).astype(np.float64)
        with arrowquant.open(tmp_path / "out") as artifact:
            v = artifact[name].dequantize().reshape(len(w), -1).astype(np.float64)
        w, h = w.reshape(len(w), -1), (x**2).mean(axis=0)
        rho = ((w - v) ** 2 @ h).sum() / (w**2 @ h).sum()
        assert told[name]["rho"] == pytest.approx(rho, rel=1e-4)
        with arrowquant.open(tmp_path / "out") as artifact:
            assert artifact[name].stored()[0].rho == pytest.approx(rho, rel=1e-4)
    without = told["blocks.0.mlp.fc2.weight"]
    assert "rho" not in without
    assert "not calibrated: the file has nothing of it" in without["reason"]
    assert [w["code"] for w in last.warnings] == ["not_calibrated"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["calibration"]["key"] == "c.arrow"
    assert manifest["calibration"]["size"] == measured.stat().st_size
    assert manifest["recipe"]["resolved"]["calibration"]["weighting"] == "captured"
    assert arrowquant.verify(tmp_path / "out", model).ok


@pytest.mark.parametrize(
    "recipe", [{"rotation": "hadamard", "bits": 2}, {"method": "trellis", "bits": 2}]
)
def test_rotated_tensors_tell_the_error_of_the_output_too(
    tmp_path: Path, model: Path, measured: Path, recipe: dict[str, Any]
) -> None:
    """In the basis of the source, on whose channels the file's second moments are."""
    job = begin(tmp_path, model, tmp_path / "out", measured=measured, **recipe, **FREE)
    assert finish(job).state is JobState.SUCCEEDED
    told = report(tmp_path / "out")
    assert arrowquant.verify(tmp_path / "out", model).ok
    for name, x in FED.items():
        with arrowquant.open(tmp_path / "out") as artifact:
            v = artifact[name].dequantize().astype(np.float64)
            assert artifact[name].stored()[0].rotation is not None
        w, h = (
            weights.widened(TENSORS[name]).astype(np.float64),
            (x.astype(np.float64) ** 2).mean(0),
        )
        w, v = w.reshape(len(w), -1), v.reshape(len(v), -1)
        assert told[name]["rho"] == pytest.approx(
            ((w - v) ** 2 @ h).sum() / (w**2 @ h).sum(), rel=1e-4
        )


def test_bytes_do_not_depend_on_threads_and_a_replay_uses_the_file_again(
    tmp_path: Path, model: Path, measured: Path
) -> None:
    jobs = []
    for threads in (1, 3):
        out = tmp_path / f"out{threads}"
        jobs.append(begin(tmp_path, model, out, threads=threads, bits=3, measured=measured, **FREE))
        assert finish(jobs[-1]).state is JobState.SUCCEEDED
    assert (
        digests(tmp_path / "out1")["part-00000.arrow"]
        == digests(tmp_path / "out3")["part-00000.arrow"]
    )
    assert _replayed(jobs[0], model.name).summary == _replayed(jobs[0], model.name).summary
    summary = _replayed(jobs[0], model.name).summary
    assert summary is not None
    assert (summary["verdict"], summary["metrics"]) == ("identical", [])
    calibrations.write(measured, FED, weights={name: raw(name) for name in FED})
    with pytest.raises(ArrowQuantError) as failure:
        _replayed(jobs[0], model.name)
    assert failure.value.code == "source_changed"
    assert failure.value.where == {"object": "c.arrow"}


def _replayed(job: LocalJob, source: str) -> JobRecord:
    deps = job.deps
    places = Place(connection="output"), Source(connection="source", prefix=source)
    asked = replays.create(deps.stores, deps.ledger, deps.bell, TENANT, *places).job
    Workshop(deps).run()
    return replays.get(deps.ledger, TENANT, asked.id)


def test_time_bins_may_count_the_same(tmp_path: Path, model: Path) -> None:
    """The recipe says how; the codes are others."""
    name = "blocks.0.attn.qkv.weight"
    times = np.concatenate([np.zeros(1100), np.full(100, 900.0)])
    x = FED[name].copy()
    x[1100:] = x[1100:, ::-1]
    calibrations.write(tmp_path / "c.arrow", {name: x}, weights={name: raw(name)}, times=times)
    with CalibrationFile.open(tmp_path / "c.arrow") as file:
        stats = file.stats(f"{name}#in")
    rho = {}
    for weighting in ("captured", "uniform"):
        job = begin(
            tmp_path, model, tmp_path / weighting, bits=2, measured=tmp_path / "c.arrow",
            calibration={"weighting": weighting}, **FREE,
        )  # fmt: skip
        assert finish(job).state is JobState.SUCCEEDED
        h = stats.mean_square(weighting)  # type: ignore[arg-type]
        with arrowquant.open(tmp_path / weighting) as artifact:
            v = artifact[name].dequantize().astype(np.float64)
        w = weights.widened(TENSORS[name]).astype(np.float64)
        rho[weighting] = ((w - v) ** 2 @ h).sum() / (w**2 @ h).sum()
        assert report(tmp_path / weighting)[name]["rho"] == pytest.approx(rho[weighting], rel=1e-4)
    assert rho["captured"] != rho["uniform"]


def test_several_outputs_share_what_is_read_of_the_file(
    tmp_path: Path, model: Path, measured: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over each input once while weights are quantized, and once for all tables of activations."""
    outputs = [
        {"id": "four", "bits": 4},
        {"id": "two", "bits": 2},
        {"id": "blocks", "bits": 3, "method": "superblock"},
    ]
    alone = {}
    for output in outputs:
        recipe: dict[str, Any] = {key: value for key, value in output.items() if key != "id"}
        out = tmp_path / "alone" / str(output["id"])
        job = begin(tmp_path, model, out, measured=measured, **recipe, **FREE)
        assert finish(job).state is JobState.SUCCEEDED
        alone[output["id"]] = digests(out)
    job = begin(tmp_path, model, tmp_path / "out", measured=measured, outputs=outputs, **FREE)
    read: list[str] = []
    stats = CalibrationFile.stats

    def counted(file: CalibrationFile, name: str) -> Any:
        read.append(name)
        return stats(file, name)

    monkeypatch.setattr(CalibrationFile, "stats", counted)
    assert finish(job).state is JobState.SUCCEEDED
    assert sorted(read) == sorted([f"{name}#in" for name in FED] * 2)
    for name, files in alone.items():
        made = digests(tmp_path / "out" / str(name))
        for file in ("part-00000.arrow", "activations.arrow"):
            assert made[file] == files[file], (name, file)


@pytest.mark.parametrize("chunk", [4 * 2**20, 4096])
def test_other_bytes_are_refused(
    tmp_path: Path, model: Path, measured: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single bit of a weight, wherever it is: found while the tensor streams by."""
    for place in ("arrowquant.calibration.digests", "service.domain.calibration"):
        monkeypatch.setattr(f"{place}.CHUNK_BYTES", chunk)
    calibrations.write(measured, FED, weights={name: raw(name) for name in FED})
    data = bytearray(model.read_bytes())
    data[-(len(raw("blocks.0.attn.qkv.bias")) + len(raw("blocks.0.mlp.fc2.weight")) + 1)] ^= 1
    model.write_bytes(bytes(data))
    error = failed(begin(tmp_path, model, tmp_path / "out", bits=4, measured=measured))
    assert error["code"] == "calibration_mismatch"
    assert error["where"]["tensor"] == "blocks.0.conv.weight"
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_a_tensor_in_several_units_is_checked_in_all_of_them(
    tmp_path: Path, small_units: None
) -> None:
    name = "w.weight"
    w = weights.gaussian((9001, 512), 7)
    x = activations(7, 512)
    model = weights.write(tmp_path / "m.safetensors", {name: weights.tensor(w)})
    calibrations.write(tmp_path / "c.arrow", {name: x}, weights={name: w.tobytes()})
    good = begin(tmp_path, model, tmp_path / "good", bits=4, measured=tmp_path / "c.arrow", **FREE)
    last = finish(good)
    assert last.state is JobState.SUCCEEDED, last.error
    assert len(list((tmp_path / "good").glob("part-*.arrow"))) > 1
    header = model.stat().st_size - w.nbytes
    for at in (0, 8 * 2**20 - 1, 8 * 2**20, w.nbytes - 1):
        data = bytearray(model.read_bytes())
        data[header + at] ^= 1
        other = tmp_path / f"other{at}.safetensors"
        other.write_bytes(bytes(data))
        job = begin(
            tmp_path, other, tmp_path / f"out{at}", bits=4, measured=tmp_path / "c.arrow", **FREE
        )
        assert failed(job)["code"] == "calibration_mismatch", at


@pytest.mark.parametrize("what", ["unbound", "others", "channels", "size"])
def test_files_that_cannot_be_of_these_weights(tmp_path: Path, model: Path, what: str) -> None:
    name = "blocks.0.attn.qkv.weight"
    fed, bound = {name: FED[name]}, {name: raw(name)}
    if what == "others":
        fed, bound = {"x.weight": FED[name]}, {"x.weight": raw(name)}
    elif what == "channels":
        fed = {name: FED[name][:, :-8]}
    elif what == "size":
        bound = {name: bytes(5 * 2**20)}
    calibrations.write(tmp_path / "c.arrow", fed, weights=None if what == "unbound" else bound)
    error = failed(begin(tmp_path, model, tmp_path / "out", bits=4, measured=tmp_path / "c.arrow"))
    assert error["code"] == "calibration_mismatch"


def test_a_broken_file_is_refused_when_it_is_read(
    tmp_path: Path, model: Path, measured: Path
) -> None:
    """The index is sound, so planning goes through; the numbers are not."""
    data = bytearray(measured.read_bytes())
    with CalibrationFile.open(measured) as file:
        wanted = file.stats("blocks.0.attn.qkv.weight#in").sum_sq[0, 7]
    at = bytes(data).index(np.float64(wanted).tobytes())
    data[at : at + 8] = np.float64(-1).tobytes()
    measured.write_bytes(bytes(data))
    error = failed(begin(tmp_path, model, tmp_path / "out", bits=4, measured=measured))
    assert error["code"] == "invalid_calibration"
    assert error["where"]["input"] == "blocks.0.attn.qkv.weight#in"
    (tmp_path / "text.arrow").write_bytes(b"no Arrow file at all")
    job = begin(tmp_path, model, tmp_path / "out2", bits=4, measured=tmp_path / "text.arrow")
    assert failed(job)["code"] == "invalid_calibration"


@pytest.mark.real
def test_from_s3_only_what_a_unit_needs_is_read(
    tmp_path: Path,
    model: Path,
    s3_server: S3Server,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Second moments and samples of a file are large; importances do not need them."""
    for name, value in s3_server.client_environment.items():
        monkeypatch.setenv(name, value)
    many = {f"other.{n}.weight": activations(n, 256, 300) for n in range(20)}
    file = tmp_path / "c.arrow"
    bound = {name: raw(name) for name in FED} | dict.fromkeys(many, b"x")
    calibrations.write(file, FED | many, weights=bound, moment="full", keep=200)
    s3 = s3_server.client()
    s3.upload_file(str(model), s3_bucket, "in/model.safetensors")
    s3.upload_file(str(file), s3_bucket, "calib/c.arrow")
    source, out = f"s3://{s3_bucket}/in/model.safetensors", f"s3://{s3_bucket}/out"
    job = begin(tmp_path, source, out, bits=4, measured=f"s3://{s3_bucket}/calib/c.arrow", **FREE)
    read: list[int] = []
    store = job.deps.stores.open(TENANT, "calibration")
    real = store.read

    def counted(key: str, start: int, stop: int, etag: str | None = None) -> bytes:
        read.append(stop - start)
        return real(key, start, stop, etag)

    monkeypatch.setattr(store, "read", counted)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    local = begin(tmp_path, model, tmp_path / "local", bits=4, measured=file, **FREE)
    assert finish(local).state is JobState.SUCCEEDED
    part = s3.get_object(Bucket=s3_bucket, Key="out/part-00000.arrow")["Body"].read()
    assert part == (tmp_path / "local" / "part-00000.arrow").read_bytes()
    assert sum(read) < 0.15 * file.stat().st_size
    assert len(read) < 40


def test_memory_does_not_grow_with_the_number_of_inputs(tmp_path: Path) -> None:
    """Two hundred inputs of a megabyte of statistics each: at most a few are held."""
    import tracemalloc

    n, names = 4096, [f"blocks.{number}.weight" for number in range(60)]
    w = weights.gaussian((8, n), 1)
    tensors = {name: weights.tensor(w) for name in names}
    # Equal tensors would be stored once.
    tensors = {name: weights.tensor(w + np.float32(k) / 997) for k, name in enumerate(names)}
    x = np.random.default_rng(3).normal(size=(60, n)).astype(np.float32)
    fed = dict.fromkeys(names, x)
    bound = {name: tensors[name][1].tobytes() for name in names}
    model = weights.write(tmp_path / "m.safetensors", tensors)
    file = tmp_path / "c.arrow"
    calibrations.write(
        file, fed, weights=bound, times=np.linspace(0, 999, 60), moment="block", block=512
    )
    assert file.stat().st_size > 500 * 2**20 / 60 * 10
    warm = begin(tmp_path, model, tmp_path / "warm", bits=4, **FREE)
    assert finish(warm).state is JobState.SUCCEEDED
    job = begin(
        tmp_path, model, tmp_path / "out", bits=4, measured=file, limits=Limits(threads=1), **FREE
    )
    tracemalloc.start()
    try:
        last = finish(job)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert last.state is JobState.SUCCEEDED, last.error
    assert peak < 40 * 2**20
