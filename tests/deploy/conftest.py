"""The files of a deployment, read once."""

from __future__ import annotations

from pathlib import Path

import pytest

from service.settings import PREFIX, Settings
from tests.deploy import tools

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def variables() -> set[str]:
    """The environment variables that the service knows."""
    return {PREFIX + name.upper() for name in Settings.model_fields}


@pytest.fixture(scope="session")
def tool_cache(pytestconfig: pytest.Config) -> Path:
    return pytestconfig.cache.mkdir("deploy-tools")


@pytest.fixture(scope="session")
def helm(tool_cache: Path) -> Path:
    return tools.helm(tool_cache)


@pytest.fixture(scope="session")
def checkers(tool_cache: Path) -> Path:
    return tools.checkers(tool_cache)
