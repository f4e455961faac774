"""A job's limits hold in the worker that does it, and never widen what the operator gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import MethodType
from typing import Any

import pytest

from kernels import blocks
from service.domain.job import JobRecord, JobState
from service.domain.spec import JobRequest
from service.settings import Settings
from service.usecases.submit import submit
from tests import weights
from tests.workers.succession import TENANT, World
from workers.memory import SLACK_BYTES, UPLOAD_BYTES, Budget, budget
from workers.steps import quantize

MIB = 2**20
GIVEN = {"threads": 4, "max_memory_bytes": 4096 * MIB}


@pytest.fixture
def limited(tmp_path: Path) -> Iterator[World]:
    """A worker with the operator's own limits."""
    tensors = {
        "a.weight": weights.tensor(weights.gaussian((1024, 1024), 1)),  # eight blocks of rows
    }
    (tmp_path / "models" / "m").mkdir(parents=True)
    weights.write(tmp_path / "models" / "m" / "model.safetensors", tensors)
    wide = weights.tensor(weights.gaussian((1, 56 * MIB // 4), 2))
    (tmp_path / "models" / "wide").mkdir()
    weights.write(tmp_path / "models" / "wide" / "model.safetensors", {"wide.weight": wide})
    (tmp_path / "artifacts").mkdir()
    connections: dict[str, Any] = {
        "models": {"kind": "folder", "path": tmp_path / "models"},
        "folder": {"kind": "folder", "path": tmp_path / "artifacts"},
    }
    settings = Settings.load(data_dir=tmp_path / "data", connections=connections, **GIVEN)
    world = World(settings, "folder")
    yield world
    world.deps.close()


def done(world: World, source: str = "m/", **limits: int) -> JobRecord:
    request = {
        "source": {"connection": "models", "prefix": source},
        "output": {"connection": "folder", "prefix": "out/"},
        "recipe": {"bits": 8, "method": "minmax", "fallback": {"enabled": False}},
        "limits": limits,
    }
    deps = world.deps
    new = JobRequest.model_validate(request)
    job = submit(new, TENANT, deps.stores, deps.webhooks, deps.ledger, deps.bell).job
    world.work()
    return world.job(job.id)


@pytest.mark.parametrize(("asked", "used"), [({}, 4), ({"threads": 1}, 1), ({"threads": 3}, 3),
                                             ({"threads": 64}, 4)])  # fmt: skip
def test_threads(
    limited: World, monkeypatch: pytest.MonkeyPatch, asked: dict[str, int], used: int
) -> None:
    """The thread that calls, and the helpers that are asked to join one pass over a tile."""
    helpers: Counter[int] = Counter()
    passes: list[blocks._Pass] = []  # kept, so that no two have one id
    ask = blocks._Helpers.submit

    def counted(pool: blocks._Helpers, work: Callable[[], None]) -> Future[None]:
        one = work.__self__ if isinstance(work, MethodType) else None
        assert isinstance(one, blocks._Pass)
        passes.append(one)
        helpers[id(one)] += 1
        return ask(pool, work)

    monkeypatch.setattr(blocks._Helpers, "submit", counted)
    job = done(limited, **asked)
    assert job.state is JobState.SUCCEEDED, job.error
    assert 1 + max(helpers.values(), default=0) == used


@pytest.mark.parametrize(("asked", "limit"), [(3072, 3072), (65536, 4096)])
def test_memory_is_the_tighter_of_two_limits(
    limited: World, monkeypatch: pytest.MonkeyPatch, asked: int, limit: int
) -> None:
    seen: list[tuple[int | None, Budget]] = []

    def noted(
        plan: Any, unit: Any, outputs: int, max_memory_bytes: int | None, reads_at_once: int
    ) -> Budget:
        found = budget(plan, unit, outputs, max_memory_bytes, reads_at_once)
        seen.append((max_memory_bytes, found))
        return found

    monkeypatch.setattr(quantize, "budget", noted)
    job = done(limited, max_memory_bytes=asked * MIB)
    assert job.state is JobState.SUCCEEDED, job.error
    [(given, found)] = seen
    assert given == limit * MIB
    assert 2 * found.buffers * found.buffer_bytes + UPLOAD_BYTES + SLACK_BYTES < given
    assert 0 < job.usage.peak_rss_bytes < given


def test_a_limit_that_cannot_be_held_is_refused(limited: World) -> None:
    """One row of 56 MiB and what it becomes do not fit beside the process."""
    job = done(limited, "wide/", max_memory_bytes=256 * MIB)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error["code"], job.error["fault"]) == ("memory_limit_too_small", "limit")
    assert "MiB" in job.error["hint"]
