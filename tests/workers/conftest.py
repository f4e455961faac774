"""Local jobs are closed after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.workers.runs import close_all


@pytest.fixture(autouse=True)
def _close_local_jobs() -> Iterator[None]:
    yield
    close_all()
