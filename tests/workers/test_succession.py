"""One job after another at the same place: replaced whole, or resumed.

Every test runs on a folder and on a real S3.
"""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import Any

import pytest

from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, UnitKind
from service.domain.report import MANIFEST_NAME
from service.usecases.artifacts import Artifacts
from tests.workers.succession import TENANT, World, write_source
from workers.workshop import Workshop


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
            self._stop.wait(0.01)  # leave the processor to the job


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

    def test_a_failure_leaves_the_old_one_as_it_was(self, world: World) -> None:
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
    def quantized(self, world: World) -> list[int]:
        return [claim.seq for claim in world.claims if claim.kind is UnitKind.QUANTIZE]

    def test_only_what_is_missing_is_made(self, world: World) -> None:
        before = world.half_done()
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
        before = world.half_done()
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
        before = world.half_done()
        job = world.done(if_exists="resume", bits=4)
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert job.error["code"] == "output_mismatch"
        assert "recipe bits: 8, now 4" in job.error["message"]
        assert job.error["where"]["job"] == before

    def test_another_source_is_refused_by_name(self, world: World, tmp_path: Path) -> None:
        source = Path(world.deps.settings.connections["models"].path) / world.connection  # type: ignore[union-attr]
        write_source(source, 5)
        world.half_done(source=f"{world.connection}/")
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
