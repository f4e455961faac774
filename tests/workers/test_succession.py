"""One job after another at the same place: replaced whole, resumed, or removed and nothing more.

Every test runs on a folder and on a real S3.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.domain import units
from service.domain.errors import ArrowQuantError
from service.domain.job import Claim, JobRecord, JobState, UnitKind
from service.domain.ports import ObjectStore
from service.domain.report import MANIFEST_NAME
from service.domain.spec import JobRequest
from service.settings import Settings
from service.usecases.artifacts import Artifacts
from service.usecases.submit import submit
from service.wiring import Deps, wire
from tests import weights
from tests.servers import S3Server
from workers.local import NoBell
from workers.workshop import Workshop

TENANT = "acme"
# A tensor is a unit, see `small_units`.
SHAPE = (320, 1024)


class World:
    """A ledger, a source of two units, an output of one kind, and a worker in this process."""

    def __init__(self, settings: Settings, output: str) -> None:
        self.deps: Deps = dataclasses.replace(wire(settings), bell=NoBell())
        self.connection = output
        self.workshop = Workshop(self.deps)
        self.claims: list[Claim] = []

    @property
    def store(self) -> ObjectStore:
        return self.deps.stores.open(TENANT, self.connection)

    def submit(self, if_exists: str = "fail", source: str = "m/", **recipe: Any) -> str:
        request = {
            "source": {"connection": "models", "prefix": source},
            "output": {"connection": self.connection, "prefix": "out/", "if_exists": if_exists},
            "recipe": {"bits": 8, "method": "minmax", "fallback": {"enabled": False}} | recipe,
        }
        deps = self.deps
        new = JobRequest.model_validate(request)
        return submit(new, TENANT, deps.stores, deps.webhooks, deps.ledger, deps.bell).job.id

    def work(self, job_id: str | None = None, until: UnitKind | None = None) -> Claim | None:
        """Until nothing is left, or a unit of this kind is claimed."""
        while (claim := self.deps.ledger.claim(self.workshop.worker, job_id)) is not None:
            if claim.kind is until:
                return claim
            self.claims.append(claim)
            self.workshop.work_on(claim)
        return None

    def done(self, **how: Any) -> JobRecord:
        job_id = self.submit(**how)
        self.work()
        return self.job(job_id)

    def job(self, job_id: str) -> JobRecord:
        return self.deps.ledger.get_job(job_id)

    def files(self) -> dict[str, str]:
        """Digest by name of everything below the output."""
        found = {}
        for info in self.store.list("out/"):
            data = self.store.read(info.key, 0, info.size) if info.size else b""
            found[info.key.removeprefix("out/")] = hashlib.sha256(data).hexdigest()
        return found

    def artifact(self) -> dict[str, str]:
        """Digest by name of what the manifest lists, all checked."""
        info = self.store.stat("out/" + MANIFEST_NAME)
        data = self.store.read(info.key, 0, info.size, info.etag)
        manifest = json.loads(data)
        listed = {f["name"]: f["sha256"] for f in (manifest["report"], *manifest["parts"])}
        for name, digest in listed.items():
            part = self.store.stat(f"out/{name}")
            read = self.store.read(part.key, 0, part.size, part.etag)
            assert hashlib.sha256(read).hexdigest() == digest, name
        return listed | {MANIFEST_NAME: hashlib.sha256(data).hexdigest()}

    def keep_replaced(self, seconds: int) -> None:
        settings = self.deps.settings.model_copy(update={"replaced_keep_s": seconds})
        self.deps = dataclasses.replace(self.deps, settings=settings)
        self.workshop = Workshop(self.deps)


def write_source(folder: Path, seed: int) -> None:
    tensors = {
        f"blocks.{n}.weight": weights.tensor(weights.gaussian(SHAPE, seed + n)) for n in range(2)
    }
    folder.mkdir(parents=True, exist_ok=True)
    weights.write(folder / "model.safetensors", tensors)


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "MIN_UNIT_BYTES", 2**20)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    write_source(folder / "m", 1)
    return folder


@pytest.fixture(params=["folder", pytest.param("s3", marks=pytest.mark.real)])
def settings(request: pytest.FixtureRequest, tmp_path: Path, models: Path) -> Settings:
    connections: dict[str, Any] = {"models": {"kind": "folder", "path": models}}
    if request.param == "folder":
        (tmp_path / "artifacts").mkdir()
        connections["folder"] = {"kind": "folder", "path": tmp_path / "artifacts"}
    else:
        server: S3Server = request.getfixturevalue("s3_server")
        os.environ["TEST_S3_ID"] = server.access_key
        os.environ["TEST_S3_SECRET"] = server.secret_key
        connections["s3"] = {
            "kind": "s3",
            "bucket": request.getfixturevalue("s3_bucket"),
            "endpoint_url": server.endpoint_url,
            "access_key_id_env": "TEST_S3_ID",
            "secret_access_key_env": "TEST_S3_SECRET",
        }
    return Settings.load(data_dir=tmp_path / "data", connections=connections)


@pytest.fixture
def world(settings: Settings, request: pytest.FixtureRequest) -> Iterator[World]:
    names = [name for name in settings.connections if name != "models"]
    made = World(settings, names[0])
    yield made
    made.deps.close()


class Reader:
    """Reads the artifact over and over, as somebody would who knows nothing of jobs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.seen: list[dict[str, str]] = []
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Reader:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            last = self._stop.is_set()
            try:
                found = self._world.artifact()
                if not self.seen or self.seen[-1] != found:
                    self.seen.append(found)
            except BaseException as error:
                self.errors.append(error)
            if last:
                return


class TestReplace:
    def test_a_reader_sees_the_old_or_the_new_and_never_a_mix(self, world: World) -> None:
        first = world.done()
        assert first.state is JobState.SUCCEEDED
        old = world.artifact()
        with Reader(world) as reader:
            second = world.done(if_exists="replace", bits=4)
        assert second.state is JobState.SUCCEEDED
        new = world.artifact()
        assert reader.errors == []
        assert reader.seen == [old, new]
        assert set(old) & set(new) == {MANIFEST_NAME}
        # Whoever has just read the old manifest can still read its parts.
        assert old.items() - world.files().items() == {(MANIFEST_NAME, old[MANIFEST_NAME])}
        artifacts = Artifacts(world.deps.ledger, world.deps.stores)
        download = artifacts.report(second.id, TENANT)
        assert download.chunks is not None
        assert hashlib.sha256(b"".join(download.chunks)).hexdigest() == download.file.sha256
        with pytest.raises(ArrowQuantError, match=r"^not_found:"):
            artifacts.report(first.id, TENANT)

    def test_what_was_replaced_goes_after_a_while(self, world: World) -> None:
        world.keep_replaced(0)
        world.done()
        job = world.done(if_exists="replace", bits=4)
        assert world.job(job.id).leftovers is None
        assert world.files() == world.artifact()
        third = world.done(if_exists="replace", bits=8)
        assert third.state is JobState.SUCCEEDED
        assert world.files() == world.artifact()

    def test_the_bytes_are_those_of_a_fresh_job(self, world: World) -> None:
        world.keep_replaced(0)
        world.done()
        fresh = sorted(d for name, d in world.artifact().items() if name.startswith("part-"))
        world.done(if_exists="replace")
        again = sorted(d for name, d in world.artifact().items() if name.startswith("part-"))
        assert fresh == again

    def test_a_cancel_leaves_the_old_one_as_it_was(self, world: World) -> None:
        world.done()
        old = world.files()
        job_id = world.submit(if_exists="replace", bits=4)
        assert world.work(until=UnitKind.PUBLISH) is not None
        assert len(world.files()) > len(old)
        world.deps.ledger.cancel_job(job_id)
        world.work()
        assert world.job(job_id).state is JobState.CANCELLED
        assert world.files() == old

    @pytest.mark.parametrize("cleaned", [False, True])
    def test_a_cancel_in_the_moment_of_the_commit_too(
        self, world: World, monkeypatch: pytest.MonkeyPatch, cleaned: bool
    ) -> None:
        """Also when another worker has cleaned up before the manifest arrived."""
        world.done()
        old = world.files()
        job_id = world.submit(if_exists="replace", bits=4)
        publish = world.work(until=UnitKind.PUBLISH)
        assert publish is not None
        put = type(world.store).put

        def cancel_first(store: Any, key: str, data: bytes, *, if_absent: bool = False) -> Any:
            if key.endswith(MANIFEST_NAME) and world.job(job_id).state is JobState.RUNNING:
                world.deps.ledger.cancel_job(job_id)
                if cleaned:
                    Workshop(world.deps).run()
            return put(store, key, data, if_absent=if_absent)

        monkeypatch.setattr(type(world.store), "put", cancel_first)
        world.workshop.work_on(publish)
        world.work()
        assert world.job(job_id).state is JobState.CANCELLED
        assert world.files() == old

    def test_a_failure_leaves_the_old_one_as_it_was(self, world: World, models: Path) -> None:
        world.done()
        old = world.files()
        job_id = world.submit(if_exists="replace", bits=4)
        claim = world.work(until=UnitKind.PUBLISH)
        assert claim is not None
        world.deps.ledger.fail_job(claim, ArrowQuantError("no_space", "full"))
        world.work()
        job = world.job(job_id)
        assert job.state is JobState.FAILED
        assert world.files() == old
        assert world.deps.ledger.parts(job_id) == []
        # A retry makes them again.
        world.deps.ledger.retry_job(job_id)
        world.work()
        assert world.job(job_id).state is JobState.SUCCEEDED
        assert set(world.artifact().values()) <= set(world.files().values())

    def test_a_retry_takes_other_names_if_its_own_were_taken(self, world: World) -> None:
        world.keep_replaced(0)
        world.done()
        late = world.submit(if_exists="replace", bits=4)
        claim = world.work(until=UnitKind.PUBLISH)
        assert claim is not None
        world.deps.ledger.fail_job(claim, ArrowQuantError("no_space", "full"))
        world.work()
        world.done(if_exists="replace", bits=2)
        with Reader(world) as reader:
            world.deps.ledger.retry_job(late)
            world.work()
        assert world.job(late).state is JobState.SUCCEEDED
        assert reader.errors == [] or world.deps.settings.replaced_keep_s == 0
        assert world.files() == world.artifact()


class TestResume:
    def half_done(self, world: World, **recipe: Any) -> str:
        """A job that failed with one of its two parts finished."""
        job_id = world.submit(**recipe)
        world.workshop.work_on(self.claim(world, UnitKind.PLAN))
        world.workshop.work_on(self.claim(world, UnitKind.QUANTIZE))
        claim = self.claim(world, UnitKind.QUANTIZE)
        world.deps.ledger.fail_job(claim, ArrowQuantError("max_runtime_exceeded", "too long"))
        world.work()
        return job_id

    def claim(self, world: World, kind: UnitKind) -> Claim:
        claim = world.deps.ledger.claim(world.workshop.worker)
        assert claim is not None
        assert claim.kind is kind
        return claim

    def quantized(self, world: World) -> list[int]:
        return [claim.seq for claim in world.claims if claim.kind is UnitKind.QUANTIZE]

    def test_only_what_is_missing_is_made(self, world: World) -> None:
        before = self.half_done(world)
        [part] = world.deps.ledger.parts(before)
        world.claims.clear()
        job = world.done(if_exists="resume")
        assert job.state is JobState.SUCCEEDED
        assert self.quantized(world) == [1]
        assert job.resolved["resumed"] == {"job": before, "parts": 1}
        assert part in world.deps.ledger.parts(job.id)
        states = {row.state.value for row in world.deps.ledger.tensors(job.id)}
        assert states == {"DONE"}
        resumed = world.artifact()
        world.keep_replaced(0)
        world.done(if_exists="replace")
        fresh = {d for name, d in world.artifact().items() if name.startswith("part-")}
        assert fresh <= set(resumed.values())

    @pytest.mark.parametrize("lost", ["removed", "changed"])
    def test_a_part_that_is_no_longer_ours_is_made_again(self, world: World, lost: str) -> None:
        before = self.half_done(world)
        [part] = world.deps.ledger.parts(before)
        if lost == "removed":
            world.store.delete(part.key)
        else:
            world.store.put(part.key, b"x" * part.nbytes)
        world.claims.clear()
        job = world.done(if_exists="resume")
        assert job.state is JobState.SUCCEEDED
        assert sorted(self.quantized(world)) == [0, 1]
        assert job.resolved["resumed"]["parts"] == 0
        world.artifact()

    def test_another_recipe_is_refused_by_name(self, world: World) -> None:
        before = self.half_done(world)
        job = world.done(if_exists="resume", bits=4)
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert job.error["code"] == "output_mismatch"
        assert "recipe bits: 8, now 4" in job.error["message"]
        assert job.error["where"]["job"] == before

    def test_another_source_is_refused_by_name(self, world: World, tmp_path: Path) -> None:
        source = Path(world.deps.settings.connections["models"].path) / world.connection  # type: ignore[union-attr]
        write_source(source, 5)
        self.half_done(world, source=f"{world.connection}/")
        write_source(source, 6)
        job = world.done(if_exists="resume", source=f"{world.connection}/")
        assert job.error is not None
        assert job.error["code"] == "output_mismatch"
        assert "source " in job.error["message"]

    def test_what_is_complete_is_left_as_it_is(self, world: World) -> None:
        first = world.done()
        files = world.files()
        world.claims.clear()
        job = world.done(if_exists="resume")
        assert job.state is JobState.SUCCEEDED
        assert [claim.kind for claim in world.claims] == [UnitKind.PLAN]
        assert job.summary == first.summary
        ledger = world.deps.ledger
        assert ledger.tensors(job.id) == ledger.tensors(first.id)
        assert world.files() == files
        # It wrote nothing, so with it nothing goes.
        ledger.delete_job(job.id, TENANT, artifacts=True)
        world.work()
        assert world.files() == files

    def test_what_is_complete_and_something_else_is_refused(self, world: World) -> None:
        world.done()
        files = world.files()
        job = world.done(if_exists="resume", bits=4)
        assert job.error is not None
        assert job.error["code"] == "output_mismatch"
        assert "recipe bits" in job.error["message"]
        assert world.files() == files

    def test_nothing_there_is_a_job_like_any_other(self, world: World) -> None:
        assert world.done(if_exists="resume").state is JobState.SUCCEEDED


class TestRemoval:
    def delete(self, world: World, job: JobRecord) -> None:
        world.deps.ledger.delete_job(job.id, TENANT, artifacts=True)
        world.work()
        while world.deps.ledger.sweep():
            pass
        with pytest.raises(ArrowQuantError, match=r"^not_found:"):
            world.job(job.id)

    def test_everything_goes(self, world: World) -> None:
        job = world.done()
        world.store.put("out/notes.txt", b"mine")
        world.store.create("out/part-00007.arrow").write(b"z" * 9_000_000)  # never completed
        self.delete(world, job)
        assert list(world.files()) == ["notes.txt"]
        assert list(world.store.uploads("out/")) == []

    def test_what_has_replaced_it_stays(self, world: World) -> None:
        first = world.done()
        second = world.done(if_exists="replace", bits=4)
        new = world.artifact()
        self.delete(world, first)
        assert world.artifact() == new
        self.delete(world, second)
        assert world.files() == {}

    def test_the_same_bytes_of_somebody_else_stay(self, world: World) -> None:
        """The place was emptied by hand, and another job has made the very same artifact."""
        first = world.done()
        for name in world.files():
            world.store.delete(f"out/{name}")
        second = world.done()
        files = world.files()
        self.delete(world, first)
        assert world.files() == files
        self.delete(world, second)
        assert world.files() == {}

    def test_nobody_is_disturbed(self, world: World) -> None:
        """While another job writes there, removal waits."""
        first = world.done()
        for name in world.files():
            world.store.delete(f"out/{name}")
        second = world.submit()
        publish = world.work(second, until=UnitKind.PUBLISH)
        assert publish is not None
        files = world.files()
        world.deps.ledger.delete_job(first.id, TENANT, artifacts=True)
        assert world.work(first.id) is None
        assert world.files() == files
        world.workshop.work_on(publish)
        assert world.job(second).state is JobState.SUCCEEDED
        world.artifact()

    def test_a_store_that_is_away_for_hours_is_asked_again(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        job = world.done()
        world.deps.ledger.delete_job(job.id, TENANT, artifacts=True)
        claim = world.deps.ledger.claim(world.workshop.worker)
        assert claim is not None
        assert claim.kind is UnitKind.CLEANUP
        released: list[float] = []
        release = world.deps.ledger.release

        def noted(claim: Claim, delay_s: float, error: ArrowQuantError | None = None) -> None:
            released.append(delay_s)
            release(claim, delay_s, error)

        def away(*_: object) -> None:
            raise ArrowQuantError("storage_unavailable", "no answer")

        monkeypatch.setattr(world.deps.ledger, "release", noted)
        monkeypatch.setattr(type(world.store), "delete", away)
        world.workshop.work_on(dataclasses.replace(claim, attempt=20))
        [delay] = released
        assert 600 <= delay <= 1200
        while world.deps.ledger.sweep():
            pass
        assert world.job(job.id).delete_artifacts  # it is not forgotten before

    def test_a_failed_job_takes_its_parts_along(self, world: World) -> None:
        job_id = TestResume().half_done(world)
        assert world.files()
        self.delete(world, world.job(job_id))
        assert world.files() == {}


def test_what_a_job_used_is_measured(world: World) -> None:
    job = world.done()
    assert job.summary is not None
    used, totals = job.usage, job.summary["totals"]
    assert used.cpu_s > 0
    assert used.wall_s > 0
    assert totals["source_bytes"] <= used.bytes_in < 2 * totals["source_bytes"]
    parts = totals["parts_bytes"]
    # Up to the manifest, which is written after the last word.
    assert parts < used.bytes_out <= totals["artifact_bytes"]
    assert used.peak_rss_bytes > 50 * 2**20
