"""A part that is switched off changes the time a job takes, and nothing that it makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.end_metrics import WEIGHTS
from benchmarks.pipeline import ROOT
from benchmarks.without import PARTS


def made(folder: Path, *command: str) -> dict[str, object]:
    words = [
        "quantize",
        str(WEIGHTS / "dream-glosses"),
        str(folder / "out"),
        "--json",
        "--bits",
        "8",
    ]
    done = subprocess.run(
        [*command, *words],
        cwd=ROOT,
        env=os.environ | {"ARROWQUANT_DATA_DIR": str(folder / "data")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    said: dict[str, object] = json.loads(done.stdout)
    return said


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    program = Path(sys.executable).with_name("arrowquant")
    return made(tmp_path_factory.mktemp("whole"), str(program))


@pytest.mark.parametrize("part", PARTS)
def test_a_job_without_it_makes_the_same(
    part: str, whole: dict[str, object], tmp_path: Path
) -> None:
    other = made(tmp_path, sys.executable, "-m", "benchmarks.without", part)
    for key in ("counts", "quality", "worst"):
        assert other[key] == whole[key]
