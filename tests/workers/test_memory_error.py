"""A worker that gets no memory says so, in the job's error and with everything that locates it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.domain.job import JobState
from tests import weights
from tests.workers.runs import begin, close_all, finish
from workers.memory import Budget
from workers.steps import quantize


@pytest.fixture(autouse=True)
def close() -> Iterator[None]:
    yield
    close_all()


def test_memory_that_cannot_be_had_fails_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The allocation is real: more than any machine has."""
    path = tmp_path / "model.safetensors"
    weights.write(path, {"a.weight": weights.tensor(weights.gaussian((64, 64), 1))})
    monkeypatch.setattr(quantize, "budget", lambda *_: Budget(3, 2**60))
    last = finish(begin(tmp_path, path, tmp_path / "out", bits=8))
    assert last.state is JobState.FAILED
    assert last.error is not None
    assert (last.error["code"], last.error["fault"]) == ("out_of_memory", "limit")
    assert last.error["phase"] == "QUANTIZING"
    assert last.error["attempt"] == 1
    assert "hint" in last.error
