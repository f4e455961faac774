"""Several outputs from one read: each as a job of its own would make it, the source read once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, cast

import pytest

import arrowquant
from service.adapters.objects import FolderStore, S3Store
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, UnitKind
from service.domain.ports import Upload
from service.domain.spec import Recipe
from service.usecases.plan import announce
from tests import weights
from tests.servers import S3Server
from tests.workers.runs import begin, digests, finish
from workers.artifact.part import PartWriter
from workers.local import LocalJob, TwoPlaces, plan_request
from workers.workshop import Workshop

OUTPUTS = [{"bits": 8}, {"bits": 4, "group_size": 64}, {"bits": 2, "symmetric": True}]
IDS = ("int8", "int4", "int2")
WIDTH = {"bits": 4, "group_size": 32}


class Watched(FolderStore):
    """A folder that counts what is read from it and what is begun in it, apart from the product."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.nbytes = 0
        self.begun: Counter[str] = Counter()

    def readinto(self, key: str, start: int, buffer: memoryview, etag: str) -> None:
        """Every read of a folder comes here."""
        super().readinto(key, start, buffer, etag)
        self.nbytes += buffer.nbytes

    def create(self, key: str) -> Upload:
        self.begun[key] += 1
        return super().create(key)


def _watch(job: LocalJob, source: Path, output: Path) -> tuple[Watched, Watched]:
    """Put counting stores in the place of the job's own."""
    stores = job.deps.stores
    assert isinstance(stores, TwoPlaces)
    output.mkdir(parents=True, exist_ok=True)
    watched = Watched(source if source.is_dir() else source.parent), Watched(output)
    stores._stores = dict(zip(("source", "output"), watched, strict=True))
    return watched


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    return weights.write_sharded(folder / "model", [weights.mixed()])


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 MiB in five units."""
    tensors = {
        f"blocks.{i}.to_q.weight": weights.bfloat16(weights.gaussian((2048, 4096), i))
        for i in range(5)
    }
    return weights.write(tmp_path_factory.mktemp("large") / "model.safetensors", tensors)


def _alone(tmp_path: Path, source: Path, recipe: dict[str, Any], name: str) -> Path:
    """The artifact of a job with this output alone."""
    folder = tmp_path / "alone" / name / "out"
    job = finish(begin(tmp_path, source, folder, **Recipe(**recipe).each()[name].model_dump()))
    assert job.state is JobState.SUCCEEDED, job.error
    return folder


def _same(folder: Path, alone: Path) -> None:
    """Every part and the report are the same bytes; so is the manifest, but for what was asked."""
    mine, its = digests(folder), digests(alone)
    for manifest in (mine, its):
        manifest.pop("manifest.json")
    assert mine == its
    told, other = (json.loads((at / "manifest.json").read_text()) for at in (folder, alone))
    for manifest in (told, other):
        manifest["recipe"].pop("requested")
        for total in ("artifact_bytes", "bits_per_weight"):  # they count the manifest itself
            manifest["totals"].pop(total)
    assert told == other


def test_outputs_are_what_single_jobs_make(tmp_path: Path, source: Path) -> None:
    """With escalations in some of them, ties, kept tensors, and one scale per tensor."""
    recipe: dict[str, Any] = {
        "outputs": [*OUTPUTS, {"id": "flat", "bits": 8, "granularity": "tensor",
                               "method": "minmax", "fallback": {"enabled": False}}],
        "rules": [{"match": "*.mlp.fc1.weight", "action": "keep"}],
    }  # fmt: skip
    last = finish(begin(tmp_path, source, tmp_path / "out", **recipe))
    assert last.state is JobState.SUCCEEDED, last.error
    for name in (*IDS, "flat"):
        _same(tmp_path / "out" / name, _alone(tmp_path, source, recipe, name))
        with arrowquant.open(tmp_path / "out" / name) as artifact:
            assert artifact.verify(against=source).ok
    assert last.summary is not None
    assert [entry["id"] for entry in last.summary["outputs"]] == [*IDS, "flat"]
    for entry in last.summary["outputs"]:
        files = (tmp_path / "out" / entry["id"]).iterdir()
        assert entry["totals"]["artifact_bytes"] == sum(path.stat().st_size for path in files)
        assert entry["manifest"]["key"] == f"{entry['id']}/manifest.json"


def test_plans_say_what_comes_out(tmp_path: Path, source: Path) -> None:
    recipe = {"outputs": OUTPUTS, "fallback": {"enabled": False}}
    store, request = plan_request(str(source), Recipe.model_validate(recipe))
    told = announce(TwoPlaces(store, store), "local", request)
    last = finish(begin(tmp_path, source, tmp_path / "out", **recipe))
    assert last.summary is not None
    made = {entry["id"]: entry["totals"] for entry in last.summary["outputs"]}
    assert [entry["id"] for entry in told["outputs"]] == list(IDS)
    for entry in told["outputs"]:
        for size in ("payload_bytes", "parts_bytes", "parameters"):
            assert entry["totals"][size] == made[entry["id"]][size]
    assert told["totals"]["parts_bytes"] == sum(t["parts_bytes"] for t in made.values())
    assert {t["output"] for t in told["tensors"]} == set(IDS)


def test_the_source_is_read_once(tmp_path: Path, large: Path) -> None:
    job = begin(tmp_path, large, tmp_path / "out", outputs=OUTPUTS, fallback={"enabled": False})
    read, written = _watch(job, large, tmp_path / "out")
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    size = last.progress.bytes_total
    assert size == 5 * 2048 * 4096 * 2
    assert last.progress.units_total == 5
    assert size <= read.nbytes <= 1.01 * size
    # What the job says is what was read, all of it.
    assert last.progress.bytes_read == read.nbytes
    assert set(written.begun.values()) == {1}
    assert len([key for key in written.begun if "/part-" in key]) == 3 * 5
    one = begin(tmp_path, large, tmp_path / "one", bits=8, fallback={"enabled": False})
    reads, _ = _watch(one, large, tmp_path / "one")
    assert finish(one).state is JobState.SUCCEEDED
    assert read.nbytes == reads.nbytes


def test_ranged_reads_from_s3_are_one_copy_of_the_source(
    tmp_path: Path,
    large: Path,
    s3_server: S3Server,
    s3_bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counted from the ranges of the requests that go out."""
    for name, value in s3_server.client_environment.items():
        monkeypatch.setenv(name, value)
    client = s3_server.client()
    client.upload_file(str(large), s3_bucket, "in/model.safetensors")
    recipe = {"outputs": OUTPUTS, "fallback": {"enabled": False}}
    addresses = f"s3://{s3_bucket}/in/model.safetensors", f"s3://{s3_bucket}/out"
    job = begin(tmp_path, *addresses, **recipe)
    asked: list[int] = []
    store = job.deps.stores.open("local", "source")
    assert isinstance(store, S3Store)
    session: Any = cast(Any, store._clients.get())._endpoint.http_session
    send = session.send

    def count(request: Any) -> Any:
        if "Range" in request.headers:
            ranged = request.headers["Range"]
            text = ranged.decode() if isinstance(ranged, bytes) else ranged
            start, _, stop = text.removeprefix("bytes=").partition("-")
            asked.append(int(stop) - int(start) + 1)
        return send(request)

    monkeypatch.setattr(session, "send", count)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    assert last.progress.bytes_total <= sum(asked) <= 1.01 * last.progress.bytes_total
    assert last.progress.bytes_read == sum(asked)


def test_only_the_output_that_fell_short_is_made_again(tmp_path: Path, large: Path) -> None:
    """int2 misses a gate that the others hold: its units are read twice, theirs written once."""
    recipe: dict[str, Any] = {
        "outputs": [{"bits": 8}, {"bits": 2}],
        "fallback": {"min_sqnr_db": 15, "min_cosine": 0},
    }
    job = begin(tmp_path, large, tmp_path / "out", **recipe)
    read, written = _watch(job, large, tmp_path / "out")
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    parts = [f"part-{seq:05d}.arrow" for seq in range(5)]
    assert [written.begun[f"int8/{part}"] for part in parts] == [1] * 5
    assert [written.begun[f"int2/{part}"] for part in parts] == [2] * 5
    assert last.progress.bytes_read == read.nbytes
    assert 2 * last.progress.bytes_total <= read.nbytes <= 2.02 * last.progress.bytes_total
    rows = job.deps.ledger.tensors(job.job_id, output=1)
    assert {row.bits for row in rows} == {4}
    for name in ("int8", "int2"):
        _same(tmp_path / "out" / name, _alone(tmp_path, large, recipe, name))


def test_a_broken_upload_costs_its_own_output_only(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of three parts cannot be made visible: the first stays, the others come later."""
    job = begin(tmp_path, source, tmp_path / "out", outputs=OUTPUTS, fallback={"enabled": False})
    _, written = _watch(job, source, tmp_path / "out")
    publish, calls = PartWriter.publish, []

    def failing(writer: PartWriter) -> Any:
        calls.append(writer)
        if len(calls) == 2:
            raise ArrowQuantError("storage_unavailable", "no answer")
        return publish(writer)

    monkeypatch.setattr(PartWriter, "publish", failing)
    last = finish(job)
    assert last.state is JobState.SUCCEEDED, last.error
    assert [written.begun[f"{name}/part-00000.arrow"] for name in IDS] == [1, 2, 2]
    recipe = {"outputs": OUTPUTS, "fallback": {"enabled": False}}
    for name in IDS:
        _same(tmp_path / "out" / name, _alone(tmp_path, source, recipe, name))


@pytest.mark.parametrize("units", [1, 3])
def test_a_killed_job_goes_on(tmp_path: Path, large: Path, units: int) -> None:
    recipe = {"outputs": OUTPUTS, "fallback": {"enabled": False}}
    job = begin(tmp_path, large, tmp_path / "out", **recipe)
    workshop = Workshop(job.deps)
    for _ in range(1 + units):
        claim = job.deps.ledger.claim(workshop._worker)
        assert claim is not None
        workshop.work_on(claim)
    job.close()
    again = begin(tmp_path, large, tmp_path / "out", **recipe)
    assert again.job_id == job.job_id
    read, _ = _watch(again, large, tmp_path / "out")
    last = finish(again)
    assert last.state is JobState.SUCCEEDED, last.error
    assert read.nbytes < (5 - units + 0.5) * last.progress.bytes_total / 5
    assert last.progress.bytes_read <= 1.02 * last.progress.bytes_total


def test_a_cancelled_job_leaves_nothing_in_any_output(tmp_path: Path, source: Path) -> None:
    job = begin(tmp_path, source, tmp_path / "out", outputs=OUTPUTS)
    workshop = Workshop(job.deps)
    while (claim := job.deps.ledger.claim(workshop._worker)) is not None:
        if claim.kind is UnitKind.PUBLISH:
            break
        workshop.work_on(claim)
    assert len(list((tmp_path / "out").rglob("*.arrow"))) == 3
    job.deps.ledger.cancel_job(job.job_id)
    workshop.run()
    assert job.deps.ledger.get_job(job.job_id).state is JobState.CANCELLED
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_an_artifact_in_the_place_of_one_output_is_left_alone(tmp_path: Path, source: Path) -> None:
    assert finish(begin(tmp_path, source, tmp_path / "out" / "int4", bits=4)).state
    before = digests(tmp_path / "out" / "int4")
    last = finish(begin(tmp_path, source, tmp_path / "out", outputs=OUTPUTS))
    assert last.state is JobState.FAILED
    assert last.error is not None
    assert last.error["code"] == "output_exists"
    assert last.error["where"]["object"] == "int4/manifest.json"
    assert digests(tmp_path / "out" / "int4") == before
    assert not (tmp_path / "out" / "int8").exists()


def test_memory_is_a_few_tiles_and_an_upload_for_each_output(tmp_path: Path) -> None:
    """A model larger than the limit, three outputs, the command's own peak."""
    limit = 480 * 2**20
    base = weights.gaussian((4096, 8192), 1)
    tensors = {f"blocks.{i}.to_q.weight": weights.bfloat16(base * (1 + i)) for i in range(8)}
    source = weights.write(tmp_path / "model.safetensors", tensors)
    assert source.stat().st_size > limit
    del tensors, base
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"outputs": OUTPUTS}))
    note = tmp_path / "peak.json"
    program = Path(sys.executable).with_name("arrowquant")
    command = [str(program), "quantize", str(source), str(tmp_path / "out"), "--json"]
    command += ["--recipe", str(recipe), "--max-memory", "480MiB", "--threads", "2"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.peak", str(note), *command],
        capture_output=True,
        text=True,
        env=os.environ | {"ARROWQUANT_DATA_DIR": str(tmp_path / "data")},
        cwd=Path(__file__).parents[2],  # where `benchmarks` is
        check=False,
    )
    said = run.stdout + run.stderr
    assert run.returncode == 0, said
    measured = json.loads(note.read_text())
    assert measured["status"] == 0, said
    assert measured["peak_rss_bytes"] <= limit
    summary = json.loads(run.stdout)
    assert [entry["id"] for entry in summary["outputs"]] == list(IDS)
