"""An artifact is removed with its job, and nothing more; and what a job used is told.

Every test runs on a folder and on a real S3.
"""

from __future__ import annotations

import dataclasses

import pytest

from service.domain.errors import ArrowQuantError
from service.domain.job import Claim, JobRecord, JobState, UnitKind
from tests.workers.succession import TENANT, World


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
        job_id = world.half_done()
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
