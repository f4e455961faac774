"""`python -m service`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from service.__main__ import main
from tests.processes import HOST, free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROWQUANT_DATA_DIR", str(tmp_path / "data"))


def run(*arguments: str) -> object:
    """The exit status of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", ["service", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return ended.value.code


def test_keys_are_made_listed_and_revoked(data: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("keys", "create", "--tenant", "acme", "--name", "ci") == 0
    secret = capsys.readouterr().out.strip()
    assert secret.startswith("aq_")
    key_id = secret.split("_")[1]
    assert run("keys", "list") == 0
    listed = capsys.readouterr().out
    assert listed.split("\t")[:3] == [key_id, "acme", "ci"]
    assert secret not in listed
    assert run("keys", "revoke", key_id) == 0
    assert run("keys", "revoke", key_id) == 1
    assert capsys.readouterr().err.strip() == f"there is no key {key_id}"


def test_it_does_not_start_open_to_the_network(
    data: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARROWQUANT_AUTH", "off")
    monkeypatch.setenv("ARROWQUANT_HOST", "0.0.0.0")
    assert run() == 2
    assert "ARROWQUANT_AUTH" in capsys.readouterr().err


def test_migrating_twice_is_fine(data: None) -> None:
    for _ in range(2):
        assert run("migrate") == 0


def test_openapi_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("openapi") == 0
    assert capsys.readouterr().out == (ROOT / "openapi.yaml").read_text(encoding="utf-8")


def test_the_server_serves_and_stops(data: None) -> None:
    port = free_port()
    environment = {**os.environ, "ARROWQUANT_PORT": str(port), "ARROWQUANT_AUTH": "off"}
    process = subprocess.Popen(
        [sys.executable, "-m", "service"],
        env=environment,
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for _ in range(300):
            try:
                jobs = httpx.get(f"http://{HOST}:{port}/v1/jobs")
                break
            except httpx.TransportError:
                assert process.poll() is None
                signal.sigtimedwait([], 0.1)
        assert jobs.json() == {"jobs": [], "next_page_token": None}
    finally:
        process.terminate()
        _, log = process.communicate(timeout=20)
    assert process.returncode in (0, -signal.SIGTERM)
    assert '"path": "/v1/jobs"' in log


def test_nothing_heavy_is_imported_to_start() -> None:
    """The API needs no boto3, numba or pyarrow until it talks to a bucket, if ever."""
    program = (
        "import sys; from service.settings import Settings; from service.web.app import create_app;"
        "create_app(Settings());"
        "sys.exit(','.join({'boto3', 'numba', 'pyarrow', 'celery', 'alembic'} & set(sys.modules)) or None)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
