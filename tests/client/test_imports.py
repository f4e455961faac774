"""What importing the package costs."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("numba", "celery", "fastapi", "pyarrow", "numpy", "httpx", "rich", "service", "workers")
SCRIPT = """
import json, sys, time
start = time.perf_counter()
import arrowquant
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted(sys.modules), arrowquant.__all__, arrowquant.__version__]))
"""


def run(script: str) -> str:
    command = [sys.executable, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def test_the_package_is_light() -> None:
    seconds, modules, names, version = json.loads(run(SCRIPT))
    assert not [name for name in modules if name.split(".")[0] in HEAVY]
    assert seconds < 1
    assert "open" in names
    assert version == "0.1.0"


def test_every_public_name_is_there() -> None:
    script = "import arrowquant; print([getattr(arrowquant, n).__name__ for n in ('Client', 'Artifact', 'QuantizedTensor', 'Verification', 'open')])"
    assert "QuantizedTensor" in run(script)


def test_the_command_line_starts_without_the_engine() -> None:
    script = "import arrowquant.cli.app, sys, json; print(json.dumps(sorted(sys.modules)))"
    modules = {name.split(".")[0] for name in json.loads(run(script))}
    assert not modules & {"numba", "celery", "fastapi", "pyarrow"}


def test_reading_does_not_need_the_server() -> None:
    script = (
        "import arrowquant.artifact.verify, arrowquant.artifact.export, arrowquant.http.client,"
        "sys, json; print(json.dumps(sorted(sys.modules)))"
    )
    modules = {name.split(".")[0] for name in json.loads(run(script))}
    assert not modules & {"numba", "celery", "fastapi", "service", "workers", "kernels"}
