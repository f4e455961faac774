"""`python -m service`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
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
    assert listed.strip().endswith("\tjobs:read,jobs:write,artifacts:read,admin")
    assert secret not in listed
    assert run("keys", "revoke", key_id) == 0
    assert run("keys", "revoke", key_id) == 1
    assert capsys.readouterr().err.strip() == f"there is no key {key_id}"


def test_a_key_is_made_with_scopes_and_an_end_and_rotated(
    data: None, capsys: pytest.CaptureFixture[str]
) -> None:
    make = ("keys", "create", "--tenant", "acme", "--name", "ci")
    assert run(*make, "--scope", "jobs:read", "--scope", "operator", "--expires", "90d") == 0
    first = capsys.readouterr().out.strip()
    assert run("keys", "list") == 0
    line = capsys.readouterr().out.rstrip("\n").split("\t")
    assert line[-1] == "jobs:read,operator"
    made, until = datetime.fromisoformat(line[3]), datetime.fromisoformat(line[4])
    assert until - made == pytest.approx(timedelta(days=90), abs=timedelta(minutes=1))
    assert run("keys", "rotate", line[0], "--grace", "1h") == 0
    second = capsys.readouterr().out.strip()
    assert second.split("_")[1] == line[0]
    assert second != first
    assert run("keys", "rotate", "nobodys") == 1
    for wrong in (
        ("--scope", "root"),
        ("--expires", "soon"),
        ("--expires", "2001-01-01T00:00:00Z"),
    ):
        assert run(*make, *wrong) == 2
    assert run("keys", "rotate", line[0], "--grace", "31d") == 2
    assert run("keys", "create", "--tenant", "a/b", "--name", "n") == 2


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
