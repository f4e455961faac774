"""Neither way of starting the service opens it to the network without keys."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import uvicorn
from typer.testing import CliRunner

from arrowquant.cli.app import app
from service.__main__ import main
from workers import standalone

OPEN_HOSTS = (
    "0.0.0.0",
    "::",
    "[::]",
    "192.168.1.10",
    "10.0.0.1",
    "fe80::1",
    "server.example",
    "localhost.example",
    "127.0.0.1.example",
    "0",
    "2130706433",
    " 127.0.0.1",
)


@pytest.fixture(autouse=True)
def nothing_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object, **__: object) -> None:
        raise AssertionError("it started")

    monkeypatch.setattr(uvicorn.Server, "run", start)
    monkeypatch.setattr(standalone, "serve", start)
    monkeypatch.setenv("ARROWQUANT_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("ARROWQUANT_AUTH", "off")


@pytest.mark.parametrize("host", OPEN_HOSTS)
def test_the_api_refuses_to_start_open(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ARROWQUANT_HOST", host)
    monkeypatch.setattr(sys, "argv", ["service"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "ARROWQUANT_AUTH" in capsys.readouterr().err


@pytest.mark.parametrize("host", OPEN_HOSTS)
def test_the_standalone_server_refuses_to_start_open(host: str) -> None:
    result = CliRunner().invoke(app, ["serve", "--host", host, "--port", "0"])
    assert result.exit_code == 2, result.output
    assert "ARROWQUANT_AUTH" in result.output


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "[::1]", "localhost", "127.8.9.1"])
def test_on_this_machine_it_would_start(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the refusals above are about the address."""
    monkeypatch.setenv("ARROWQUANT_HOST", host)
    monkeypatch.setattr(sys, "argv", ["service"])
    with pytest.raises(AssertionError, match="it started"):
        main()


def test_with_keys_it_would_start_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROWQUANT_HOST", "0.0.0.0")
    monkeypatch.setenv("ARROWQUANT_AUTH", "on")
    monkeypatch.setattr(sys, "argv", ["service"])
    with pytest.raises(AssertionError, match="it started"):
        main()
