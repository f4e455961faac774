"""Making an artifact again: the same, or what differs and where."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from service.domain.errors import ArrowQuantError
from service.domain.job import JobRecord, JobState
from service.domain.places import Place, Source
from service.usecases import replays
from tests import hostile, weights
from tests.servers import S3Server
from tests.workers.runs import begin, digests, finish
from workers.artifact.schema import PART_SCHEMA
from workers.local import TENANT, LocalJob
from workers.pipeline import Work, run_pass
from workers.steps import quantize
from workers.workshop import Workshop

RECIPE = {"bits": 2, "group_size": 32}


@pytest.fixture
def made(tmp_path: Path) -> LocalJob:
    """A finished job with escalations, kept tensors and ties."""
    source = weights.write_sharded(tmp_path / "model", [weights.mixed()])
    job = begin(tmp_path, source, tmp_path / "out", threads=1, **RECIPE)
    assert finish(job).state is JobState.SUCCEEDED
    return job


def _replay(job: LocalJob, threads: int = 1, output: str = "", source: str = "") -> JobRecord:
    deps = replace(job.deps, settings=job.deps.settings.model_copy(update={"threads": threads}))
    places = (
        Place(connection="output", prefix=output),
        Source(connection="source", prefix=source),
    )
    asked = replays.create(deps.stores, deps.ledger, deps.bell, TENANT, *places).job
    Workshop(deps).run()
    return replays.get(deps.ledger, TENANT, asked.id)


def _found(job: JobRecord) -> dict[str, Any]:
    assert job.state is JobState.SUCCEEDED, job.error
    assert job.summary is not None
    return job.summary


def test_the_same_comes_out_and_nothing_is_written(tmp_path: Path, made: LocalJob) -> None:
    before = digests(tmp_path / "out")
    found = _found(_replay(made))
    assert found["verdict"] == "identical"
    assert (found["engine"], found["parts"], found["tensors"], found["metrics"]) == ([], [], [], [])
    assert digests(tmp_path / "out") == before
    [listed], _ = replays.list_page(made.deps.ledger, made.deps.clock, TENANT, None, None)
    assert listed.summary == found


def test_through_a_real_store(
    tmp_path: Path, s3_server: S3Server, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source and artifact in S3: the same comes out, then a tile is changed in the bucket."""
    for name, value in s3_server.client_environment.items():
        monkeypatch.setenv(name, value)
    s3 = s3_server.client()
    model = weights.write(tmp_path / "model.safetensors", weights.mixed())
    s3.upload_file(str(model), s3_bucket, "in/model.safetensors")
    places = f"s3://{s3_bucket}/in/model.safetensors", f"s3://{s3_bucket}/out"
    job = begin(tmp_path, *places, **RECIPE)
    assert finish(job).state is JobState.SUCCEEDED
    before = _objects(s3, s3_bucket)
    asked = job.deps.ledger.get_job(job.job_id).request
    where = {key: asked[key]["prefix"] for key in ("output", "source")}
    assert _found(_replay(job, **where))["verdict"] == "identical"
    assert _objects(s3, s3_bucket) == before
    key = "out/part-00000.arrow"
    data = bytearray(s3.get_object(Bucket=s3_bucket, Key=key)["Body"].read())
    at, tensor = _codes(bytes(data))
    data[at] ^= 0xFF
    s3.put_object(Bucket=s3_bucket, Key=key, Body=bytes(data))
    found = _found(_replay(job, **where))
    assert [(e["tensor"], e["tiles"][0]["code_bytes"]) for e in found["tensors"]] == [(tensor, 1)]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=s3_bucket)


def _objects(s3: Any, bucket: str) -> dict[str, str]:
    listed = s3.list_objects_v2(Bucket=bucket)["Contents"]
    return {entry["Key"]: entry["ETag"] for entry in listed}


def _codes(part: bytes) -> tuple[int, str]:
    """Where the codes of the first tile begin in the file, and whose they are."""
    whole = pa.py_buffer(part)
    with pa.ipc.open_file(pa.BufferReader(whole)) as file:
        batch = file.get_batch(0)
    return batch.column("codes").buffers()[-1].address - whole.address, batch["tensor"][0].as_py()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads_makes_the_same(
    made: LocalJob, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def counted(work: Work, *rest: Any) -> Any:
        seen.append(work.threads)
        return run_pass(work, *rest)

    monkeypatch.setattr(quantize, "run_pass", counted)
    assert _found(_replay(made, threads))["verdict"] == "identical"
    assert set(seen) == {threads}


def test_a_changed_byte_names_its_tensor_and_tile(tmp_path: Path, made: LocalJob) -> None:
    part = tmp_path / "out" / "part-00000.arrow"
    data = bytearray(part.read_bytes())
    name = "blocks.0.mlp.fc1.weight"
    with pa.ipc.open_file(pa.BufferReader(bytes(data))) as file:
        tiles = [file.get_batch(n).to_pylist()[0] for n in range(file.num_record_batches)]
    codes = next(t["codes"] for t in tiles if t["tensor"] == name)
    at = bytes(data).index(codes)
    data[at + 7] ^= 0xFF
    part.write_bytes(data)
    found = _found(_replay(made))
    assert found["verdict"] == "differs"
    assert found["parts"] == [
        {"part": "part-00000.arrow", "problem": "stored_part_is_not_the_manifest_s"}
    ]
    tile = {"tile_index": 0, "row_start": 0, "differs": ["codes"], "code_bytes": 1}
    assert found["tensors"] == [{"tensor": name, "tiles": [tile]}]


def test_metrics_and_engine_that_say_otherwise_are_told(tmp_path: Path, made: LocalJob) -> None:
    report = tmp_path / "out" / "report.json"
    told = json.loads(report.read_text())
    entry = next(e for e in told["tensors"] if e["name"] == "blocks.0.mlp.fc2.weight")
    entry["sqnr_db"] += 1
    report.write_text(json.dumps(told))
    manifest = tmp_path / "out" / "manifest.json"
    other = json.loads(manifest.read_text())
    other["engine"]["numba"] = "0.1"
    manifest.write_text(json.dumps(other))
    found = _found(_replay(made))
    assert found["verdict"] == "differs"
    assert found["metrics"] == [{"tensor": "blocks.0.mlp.fc2.weight", "differs": ["sqnr_db"]}]
    assert [(e["name"], e["then"]) for e in found["engine"]] == [("numba", "0.1")]


def test_a_lost_part_and_a_broken_one(tmp_path: Path, made: LocalJob) -> None:
    part = tmp_path / "out" / "part-00000.arrow"
    part.write_bytes(b"ARROW1\0\0 no more")
    found = _found(_replay(made))
    assert _unreadable(found)
    part.unlink()
    assert _found(_replay(made))["parts"] == [{"part": part.name, "problem": "missing"}]


def _unreadable(found: dict[str, Any]) -> bool:
    return {tuple(t["differs"]) for e in found["tensors"] for t in e["tiles"]} == {("unreadable",)}


def _first_batch(part: Path) -> pa.RecordBatch:
    with pa.ipc.open_file(pa.BufferReader(part.read_bytes())) as file:
        return file.get_batch(0)


@pytest.mark.parametrize("attack", ["lz4", "zstd", *hostile.ATTACKS])
def test_a_part_that_is_made_to_harm_is_not_read(
    tmp_path: Path, made: LocalJob, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Arrow is asked for no batch of it, and the replay ends as for any part that differs."""
    part = tmp_path / "out" / "part-00000.arrow"
    if attack in ("lz4", "zstd"):
        hostile.write_bomb(part, PART_SCHEMA, attack, _first_batch(part))
    else:
        part.write_bytes(hostile.ATTACKS[attack](part.read_bytes()))
    asked = _reads(monkeypatch)
    found = _found(_replay(made))
    assert found["verdict"] == "differs"
    first = found["tensors"][0]["tiles"][0]
    assert first["differs"] == ["unreadable"]
    assert 0 not in asked


def test_a_batch_larger_than_a_tile_is_not_read(
    tmp_path: Path, made: LocalJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "out" / "part-00000.arrow"
    batch = _first_batch(part)
    at = batch.schema.get_field_index("codes")
    codes = pa.array([bytes(64 * 2**20)], pa.large_binary())
    columns = [codes if n == at else column for n, column in enumerate(batch.columns)]
    with pa.ipc.new_file(str(part), PART_SCHEMA) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=PART_SCHEMA))
    asked = _reads(monkeypatch)
    assert _unreadable(_found(_replay(made)))
    assert asked == []


def _reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the batches that Arrow is asked for from here on."""
    asked: list[int] = []
    opened = pa.ipc.open_file

    class Watched:
        def __init__(self, source: Any) -> None:
            self._reader = opened(source)
            self.schema = self._reader.schema

        def get_batch(self, number: int) -> pa.RecordBatch:
            asked.append(number)
            return self._reader.get_batch(number)

    monkeypatch.setattr("workers.stages.differ.pa.ipc.open_file", Watched)
    return asked


def test_another_source_is_refused(tmp_path: Path, made: LocalJob) -> None:
    shard = next((tmp_path / "model").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArrowQuantError, match="source_changed"):
        _replay(made)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda m: m.pop("source"),
        lambda m: m.update(format="other"),
        lambda m: m["parts"][0].update(name="../../etc/passwd"),
        lambda m: m["parts"][0].update(sha256="zz"),
        lambda m: m["recipe"]["resolved"].update(bits=5),
        lambda m: m["source"].update(objects=[]),
    ],
)
def test_a_manifest_of_somebody_else_s_making_is_checked(
    tmp_path: Path, made: LocalJob, spoil: Callable[[Any], Any]
) -> None:
    manifest = tmp_path / "out" / "manifest.json"
    told = json.loads(manifest.read_text())
    spoil(told)
    manifest.write_text(json.dumps(told))
    with pytest.raises(ArrowQuantError, match="invalid_artifact"):
        _replay(made)
    manifest.write_text("{" * 100_000)
    with pytest.raises(ArrowQuantError, match="invalid_artifact"):
        _replay(made)
    manifest.unlink()
    with pytest.raises(ArrowQuantError, match="not_found"):
        _replay(made)


def test_a_cancelled_replay_leaves_the_artifact_alone(tmp_path: Path, made: LocalJob) -> None:
    before = digests(tmp_path / "out")
    deps = made.deps
    places = Place(connection="output"), Source(connection="source")
    asked = replays.create(deps.stores, deps.ledger, deps.bell, TENANT, *places).job
    workshop = Workshop(deps)
    claim = deps.ledger.claim(workshop._worker)
    assert claim is not None
    workshop.work_on(claim)
    deps.ledger.cancel_job(asked.id)
    workshop.run()
    assert deps.ledger.get_job(asked.id).state is JobState.CANCELLED
    deps.ledger.delete_job(asked.id, TENANT, artifacts=True)
    workshop.run()
    assert digests(tmp_path / "out") == before
