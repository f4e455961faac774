"""Pilots: workers without a broker, which end when there is nothing to do or no time left."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from typer.testing import CliRunner

from service.adapters.sql import make_engine
from service.adapters.sql.tables import UnitState, units
from service.domain.errors import ArrowQuantError
from service.domain.job import JobState, UnitKind
from service.settings import InvalidSettings, Settings
from tests import weights
from tests.workers.runs import begin, digests, finish
from workers import __main__ as program
from workers.local import LocalJob
from workers.pilot import PATIENCE_S, Ended, Limits, Pilot
from workers.stop import Stop
from workers.workshop import Workshop

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four units of two tiles and more."""
    tensors = {
        f"blocks.{i}.weight": weights.bfloat16(weights.gaussian((8192, 1024), i)) for i in range(4)
    }
    return weights.write(tmp_path_factory.mktemp("model") / "model.safetensors", tensors)


@pytest.fixture
def job(tmp_path: Path, source: Path) -> LocalJob:
    return begin(tmp_path, source, tmp_path / "out", bits=4)


class Clock:
    """Seconds that pass when somebody asks for them."""

    def __init__(self, step: float = 0.0) -> None:
        self.seconds, self.step = 0.0, step

    def __call__(self) -> float:
        self.seconds += self.step
        return self.seconds


def fly(job: LocalJob, limits: Limits, **more: Any) -> tuple[Pilot, Ended]:
    pilot = Pilot(limits, more.pop("stop", Stop()), poll_s=0.01, **more)
    return pilot, pilot.run(Workshop(job.deps, pilot.interrupted))


def test_it_works_until_nothing_is_left(job: LocalJob) -> None:
    pilot, end = fly(job, Limits(idle_s=0.05))
    assert end is Ended.IDLE
    assert job.deps.ledger.get_job(job.job_id).state is JobState.SUCCEEDED
    assert pilot.units == 2 + job.deps.ledger.get_job(job.job_id).progress.units_total


def test_it_takes_no_more_units_than_it_may(job: LocalJob) -> None:
    pilot, end = fly(job, Limits(units=2))
    assert (end, pilot.units) == (Ended.ENOUGH, 2)
    assert job.deps.ledger.get_job(job.job_id).state is JobState.RUNNING
    assert finish(job).state is JobState.SUCCEEDED


def test_it_ends_before_its_time_is_over(job: LocalJob) -> None:
    """A tenth of the time, or 30 seconds of a long one, are kept for giving the unit back."""
    assert Limits(time_s=100).working_s == 90
    assert Limits(time_s=3600).working_s == 3570
    clock = Clock(step=1.0)
    _, end = fly(job, Limits(time_s=20), now=clock)
    assert end is Ended.TIME
    assert clock.seconds >= 18


@pytest.mark.parametrize("tiles", [0, 1, 3])
def test_a_unit_is_given_back_between_tiles(
    job: LocalJob, source: Path, tmp_path: Path, tiles: int
) -> None:
    """As if it had never been begun: not a failed try, free at once, and the same bytes."""
    fly(job, Limits(units=1))  # the plan
    stop, looks = Stop(), iter(range(10_000))

    class Watching(Pilot):
        def interrupted(self) -> bool:
            if next(looks) > tiles:  # the first look is before the claim
                stop.ask()
            return super().interrupted()

    pilot = Watching(Limits(), stop)
    assert pilot.run(Workshop(job.deps, pilot.interrupted)) is Ended.SIGNAL
    states = _units(job.deps.settings)
    assert states <= {(UnitState.FREE.value, 0), (UnitState.DONE.value, 1)}
    assert (UnitState.FREE.value, 0) in states
    assert list(job.deps.stores.open("local", "output").uploads("")) == []
    assert finish(job).state is JobState.SUCCEEDED
    other = begin(tmp_path, source, tmp_path / "undisturbed", bits=4)
    assert finish(other).state is JobState.SUCCEEDED
    assert _parts(tmp_path / "out") == _parts(tmp_path / "undisturbed")


def _parts(folder: Path) -> dict[str, str]:
    return {name: digest for name, digest in digests(folder).items() if name.endswith(".arrow")}


def _units(settings: Settings) -> set[tuple[str, int]]:
    """States of the QUANTIZE units, and how often they were tried."""
    [file] = settings.data_dir.rglob("*.db")
    engine = make_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        query = select(units.c.state, units.c.attempts).where(units.c.kind == UnitKind.QUANTIZE)
        rows = connection.execute(query).all()
    engine.dispose()
    return {(state, attempts) for state, attempts in rows}


def test_a_ledger_that_stays_away_ends_it() -> None:
    class Deaf:
        def run(self, **_: object) -> int:
            raise ArrowQuantError("database_unavailable", "gone")

    clock = Clock(step=PATIENCE_S / 7)
    pilot = Pilot(Limits(), Stop(), clock, poll_s=0.0)
    assert pilot.run(Deaf()) is Ended.UNREACHABLE  # type: ignore[arg-type]


def test_a_ledger_that_comes_back_does_not(job: LocalJob, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([False, False])
    run = Workshop.run

    def sometimes(self: Workshop, *args: Any, **more: Any) -> int:
        if next(answers, True):
            return run(self, *args, **more)
        raise ArrowQuantError("database_unavailable", "gone for a moment")

    monkeypatch.setattr(Workshop, "run", sometimes)
    _, end = fly(job, Limits(idle_s=0.05))
    assert end is Ended.IDLE
    assert job.deps.ledger.get_job(job.job_id).state is JobState.SUCCEEDED


# -- the program ---------------------------------------------------------------------------------


def test_without_drain_it_says_which_worker_a_broker_wakes() -> None:
    result = CliRunner().invoke(program.app, [])
    assert result.exit_code == 2
    assert "celery -A workers.celery_app worker" in result.output


@pytest.mark.parametrize(
    "words", [["--exit-when-idle", "-1"], ["--max-time", "0"], ["--max-units", "0"], ["--jobs"]]
)
def test_wrong_options(words: list[str]) -> None:
    assert CliRunner().invoke(program.app, ["--drain", *words]).exit_code == 2


def test_an_environment_without_kernels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The API's image has neither Numba nor Arrow."""
    find = importlib.util.find_spec
    hide: Callable[[str], object] = lambda name: None if name == "numba" else find(name)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", hide)
    with pytest.raises(InvalidSettings, match="not a worker's: numba cannot be imported"):
        program._check_environment(Settings.load(data_dir=tmp_path))


def test_an_empty_ledger_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidSettings, match="set ARROWQUANT_DATABASE_URL"):
        program._check_environment(Settings.load(data_dir=tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_on_a_network_file_system_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "arrowquant.db").touch()
    settings = Settings.load(data_dir=tmp_path)
    program._check_environment(settings)
    monkeypatch.setattr(program, "_file_system", lambda _: "nfs4")
    with pytest.raises(InvalidSettings, match="SQLite file on nfs4"):
        program._check_environment(settings)


def test_the_file_system_is_that_of_the_nearest_mount() -> None:
    assert program._file_system(Path("/proc/self/status")) == "proc"


def test_told_to_stop_it_gives_back_and_says_75(tmp_path: Path, source: Path) -> None:
    """The whole program, on a ledger that others use too, with a unit in hand."""
    job = begin(tmp_path, source, tmp_path / "out", bits=4)
    # Where a pilot looks for an embedded ledger.
    job.deps.close()
    job.ledger_file.rename(job.deps.settings.data_dir / "arrowquant.db")
    connections = {
        name: {"kind": "folder", "path": str(folder)}
        for name, folder in (("source", source.parent), ("output", tmp_path / "out"))
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "workers", "--drain", "--exit-when-idle", "1"],
        env=os.environ
        | {
            "ARROWQUANT_DATA_DIR": str(job.deps.settings.data_dir),
            "ARROWQUANT_CONNECTIONS": json.dumps(connections),
            "ARROWQUANT_LOG_FORMAT": "json",
        },
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    log = ""
    for line in process.stderr:
        log += line
        if '"quantize:' in line:
            process.send_signal(signal.SIGTERM)
            break
    with process.stderr:
        log += process.stderr.read()
    assert process.wait(60) == 75, log
    ended = json.loads(log.splitlines()[-1])
    assert (ended["event"], ended["why"]) == ("pilot_ended", "signal")
    assert "unit_given_back" in log or "unit_done" in log
