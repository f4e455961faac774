"""What the architecture tests look at: the files of the source tree, committed or about to be."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def sources(root: Path) -> list[Path]:
    """The files that git tracks or would track, as paths relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    paths = [Path(name) for name in listed.stdout.split("\0") if name]
    return sorted({path for path in paths if (root / path).is_file()})


@pytest.fixture(scope="session")
def copy_tree(root: Path, sources: list[Path]) -> Callable[[Path], Path]:
    """Makes copies of the tree, without anything that git ignores, for tests to change."""

    def copy(target: Path) -> Path:
        for path in sources:
            (target / path.parent).mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, target / path)
        return target

    return copy
