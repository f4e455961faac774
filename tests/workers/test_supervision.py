"""A worker's counters over the lives of its pool processes, its exporter, and its signs of life."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from service.domain.errors import ArrowQuantError
from tests.processes import HOST, free_port
from workers import alive, pulse
from workers.lookout import Lookout
from workers.pulse import Pulse

ROOT = Path(__file__).resolve().parents[2]
# A pool process as billiard makes it: forked, with a place; it counts, and may die of it.
POOL = """
import os, signal, sys
from billiard import Process
def child(place, amount, die):
    from billiard.process import current_process
    current_process().index = place
    from workers import counters
    counters.read_bytes.inc(amount)
    counters.units.labels("quantize", "done").inc()
    if die:
        os.kill(os.getpid(), signal.SIGKILL)
for place, amount, die in ((0, 100, True), (0, 20, False), (1, 3, True), (0, 1000, True)):
    process = Process(target=child, args=(place, amount, die))
    process.start()
    process.join()
"""


def _values(text: str) -> dict[str, float]:
    return {
        ",".join((sample.name, *sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Callable[[str], httpx.Response]]:
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "workers.exporter", HOST, str(port), str(tmp_path)], cwd=ROOT
    )

    def get(path: str) -> httpx.Response:
        end = time.monotonic() + 30
        while True:
            try:
                return httpx.get(f"http://{HOST}:{port}{path}", timeout=20)
            except httpx.TransportError:
                if time.monotonic() > end or process.poll() is not None:
                    raise
                time.sleep(0.05)

    yield get
    process.kill()
    process.wait()


def test_counters_outlive_the_processes_that_counted(
    tmp_path: Path, exporter: Callable[[str], httpx.Response]
) -> None:
    subprocess.run(
        [sys.executable, "-c", POOL],
        cwd=ROOT,
        env=os.environ | {pulse.FOLDER_VARIABLE: str(tmp_path)},
        check=True,
    )
    values = _values(exporter("/metrics").text)
    assert values["arrowquant_worker_bytes_total,read"] == 1123
    assert values["arrowquant_worker_units_total,quantize,done"] == 4
    assert values["arrowquant_worker_rss_bytes,parent"] > 1e6
    # As many files as places, however many processes there were.
    assert len(list(tmp_path.glob("counter_*.db"))) == 2


def test_the_exporter_tells_a_worker_that_hangs(
    tmp_path: Path, exporter: Callable[[str], httpx.Response]
) -> None:
    Pulse(tmp_path, "place0").busy()
    assert exporter("/healthz").status_code == 200
    _age(tmp_path / "place0.busy", alive.BUSY_S + 5)
    sick = exporter("/healthz")
    assert (sick.status_code, sick.text[:12]) == (503, "place0.busy:")
    assert exporter("/elsewhere").status_code == 404


def _age(file: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(file, (then, then))


class TestSignsOfLife:
    def test_work_may_take_longer_than_a_look(self, tmp_path: Path) -> None:
        sign = Pulse(tmp_path, "place0")
        sign.idle()
        _age(tmp_path / "place0.idle", alive.IDLE_S + 5)
        assert "no progress" in alive.problem(tmp_path)
        sign.busy()
        assert not (tmp_path / "place0.idle").exists()
        _age(tmp_path / "place0.busy", alive.IDLE_S + 5)
        assert alive.problem(tmp_path) == ""
        _age(tmp_path / "place0.busy", alive.BUSY_S + 5)
        assert "no progress" in alive.problem(tmp_path)

    def test_deaf_to_a_broker_that_answers(self, tmp_path: Path) -> None:
        Pulse(tmp_path, pulse.CONSUMER_NAME).idle()
        assert alive.problem(tmp_path, lambda: True) == ""
        _age(tmp_path / pulse.CONSUMER, alive.IDLE_S + 5)
        assert "has not listened" in alive.problem(tmp_path, lambda: True)
        # To wait for a broker that is away is all that it can do.
        assert alive.problem(tmp_path, lambda: False) == ""

    def test_the_probe_is_a_command(self, tmp_path: Path) -> None:
        def probe() -> int:
            return subprocess.run(
                [sys.executable, "-m", "workers.alive"],
                cwd=ROOT,
                env=os.environ | {"ARROWQUANT_DATA_DIR": str(tmp_path)},
                check=False,
            ).returncode

        assert probe() == 1
        folder = tmp_path / "workers" / str(os.getpid())
        folder.mkdir(parents=True)
        Pulse(folder, "place0").idle()
        assert probe() == 0
        _age(folder / "place0.idle", alive.IDLE_S + 5)
        assert probe() == 1

    def test_run_folders_of_the_dead_go(self, tmp_path: Path) -> None:
        for pid in (1, 999_999_999):
            folder = tmp_path / "workers" / str(pid)
            folder.mkdir(parents=True)
            (folder / "counter_place0.db").write_bytes(b"x")
        own = pulse.make_folder(tmp_path, lambda pid: pid == 1)
        assert sorted(p.name for p in (tmp_path / "workers").iterdir()) == sorted(
            ["1", str(os.getpid())]
        )
        pulse.remove(own)
        assert not own.exists()


class TestLookout:
    def test_it_finds_work_without_a_bell(self) -> None:
        worked = threading.Event()
        lookout = Lookout(lambda _: worked.set(), Pulse(None, ""), period_s=0.01)
        lookout.start()
        assert worked.wait(20)
        lookout.stop()

    def test_it_outlives_a_database_that_is_away(self) -> None:
        calls = threading.Semaphore(0)

        def work(_: object) -> None:
            calls.release()
            raise ArrowQuantError("database_unavailable", "gone")

        lookout = Lookout(work, Pulse(None, ""), period_s=0.01)
        lookout.start()
        assert all(calls.acquire(timeout=20) for _ in range(3))
        lookout.stop()

    def test_work_is_done_by_one_thread_and_finished_at_the_end(self) -> None:
        began, go_on, done = threading.Event(), threading.Event(), []

        def work(stop: Callable[[], bool]) -> None:
            began.set()
            go_on.wait(20)
            done.append(stop())

        lookout = Lookout(work, Pulse(None, ""), period_s=0.01)
        lookout.start()
        assert began.wait(20)
        answering = threading.Thread(target=lookout.answer, args=(lambda: False,))
        answering.start()  # waits for the other
        stopping = threading.Thread(target=lookout.stop)
        stopping.start()
        assert done == []
        go_on.set()
        stopping.join(20)
        answering.join(20)
        # Each was told what to do next by its own question.
        assert sorted(done) == [False, True] or done == [False, False]
