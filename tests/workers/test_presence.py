"""A worker in the list of workers, and what it does when it is drained."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.domain.fleet import Fleet, WorkerState
from service.domain.job import JobState
from tests import weights
from tests.workers.runs import begin
from workers.local import LocalJob
from workers.presence import VERSION, Presence
from workers.workshop import Workshop


@pytest.fixture
def job(tmp_path: Path) -> LocalJob:
    tensors = {"a.weight": weights.tensor(weights.gaussian((64, 64), 1))}
    source = weights.write(tmp_path / "model.safetensors", tensors)
    return begin(tmp_path, source, tmp_path / "out", bits=8)


class Draining:
    """The flag that a worker shares with its parent."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def asked(self) -> bool:
        return self.event.is_set()


@pytest.fixture
def draining() -> Draining:
    return Draining()


@pytest.fixture
def present(job: LocalJob, draining: Draining) -> Iterator[Workshop]:
    workshop = Workshop(job.deps)
    fleet, lease_s = job.deps.fleet, 0.4
    presence = Presence(fleet, workshop.worker, lease_s, draining.asked, draining.event.set)
    presence.start()
    yield workshop
    presence.stop()
    assert fleet.workers() == []


def wait_for(condition: Callable[[], object]) -> None:
    pause = threading.Event()
    for _ in range(1000):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("it did not happen")


def only(fleet: Fleet) -> WorkerState:
    [found] = fleet.workers()
    return found.state


def test_a_worker_is_there_as_long_as_it_lives(job: LocalJob, present: Workshop) -> None:
    fleet = job.deps.fleet
    wait_for(fleet.workers)
    [found] = fleet.workers()
    assert (found.name, found.version) == (present.worker.name, VERSION)
    assert found.rss_bytes > 10 * 2**20
    first = found.heartbeat_time
    wait_for(lambda: fleet.workers()[0].heartbeat_time > first)


def test_a_drained_worker_finishes_its_unit_and_takes_no_more(
    job: LocalJob, present: Workshop, draining: Draining
) -> None:
    fleet, ledger = job.deps.fleet, job.deps.ledger
    wait_for(fleet.workers)
    claim = ledger.claim(present.worker)
    assert claim is not None
    assert fleet.drain(fleet.workers()[0].id).state is WorkerState.DRAINING
    wait_for(draining.asked)
    present.work_on(claim)  # the unit in its hands
    assert only(fleet) is WorkerState.DRAINED
    assert ledger.has_work()
    assert present.run(stop=draining.asked) == 0
    assert ledger.get_job(job.job_id).state is JobState.RUNNING
    Workshop(job.deps).run()  # somebody else takes over
    assert ledger.get_job(job.job_id).state is JobState.SUCCEEDED
