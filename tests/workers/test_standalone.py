"""`arrowquant serve` before and around its children: address, data, broker, noise."""

from __future__ import annotations

import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from service import logs
from service.domain.access import ALL_SCOPES
from service.settings import InvalidSettings, Settings
from service.wiring import wire
from tests.processes import HOST, free_port
from workers import listening, render, standalone


def test_a_port_that_is_taken_is_said_at_once(tmp_path: Path) -> None:
    """Not after the first child has failed, and never by talking to whoever has the port."""
    with socket.socket() as other:
        other.bind((HOST, 0))
        other.listen()
        settings = Settings.load(data_dir=tmp_path, port=other.getsockname()[1])
        with pytest.raises(InvalidSettings, match="cannot listen on"):
            standalone.serve(settings, lambda *_: pytest.fail("it started"))


def test_a_host_that_is_none(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path, host="256.1.1.1", port=0)
    with pytest.raises(InvalidSettings, match=r"256\.1\.1\.1"):
        standalone.serve(settings, lambda *_: pytest.fail("it started"))


def test_port_0_is_a_free_one(tmp_path: Path) -> None:
    assert listening.port_to_use(Settings.load(data_dir=tmp_path, port=0)) > 0


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8"),
        ("0.0.0.0", "http://127.0.0.1:8"),
        ("::", "http://[::1]:8"),
    ],
)
def test_the_address_can_be_opened(tmp_path: Path, host: str, url: str) -> None:
    assert listening.address(Settings.load(data_dir=tmp_path, host=host, port=8)) == url


def test_two_servers_cannot_share_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "PATIENCE_S", 0.0)
    with listening.only_server(tmp_path):
        settings = Settings.load(data_dir=tmp_path, port=0)
        with pytest.raises(InvalidSettings, match="another `arrowquant serve`"):
            standalone.serve(settings, lambda *_: pytest.fail("it started"))
    with listening.only_server(tmp_path):
        pass  # free again


def test_the_data_belongs_to_a_broker_that_is_still_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server was killed; its broker, which has inherited the lock, notices later."""
    with listening.only_server(tmp_path) as lock:
        child = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock]
        )
    monkeypatch.setattr(listening, "PATIENCE_S", 0.0)
    with (
        pytest.raises(InvalidSettings, match="another `arrowquant serve`"),
        listening.only_server(tmp_path),
    ):
        pass
    child.communicate(b"\n")
    with listening.only_server(tmp_path):
        pass


@pytest.mark.parametrize("folder", ["/proc/nothing", "/dev/null/data"])
def test_data_that_cannot_be_written(folder: str) -> None:
    with (
        pytest.raises(InvalidSettings, match="cannot write to the data directory"),
        listening.only_server(Path(folder)),
    ):
        pass


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    broker = standalone.find_broker(tmp_path / ("d" * 60) / ("e" * 60))
    assert broker.url == "filesystem://"
    assert broker.command is None
    assert "too long" in broker.what


def test_what_libraries_say_of_every_ring_is_not_logged() -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        logs.configure("info")
        for name in ("celery.worker.strategy", "celery.app.trace", "httpx"):
            assert not logging.getLogger(name).isEnabledFor(logging.INFO), name
    finally:
        logging.getLogger().handlers[:], level = before
        logging.getLogger().setLevel(level)


def test_it_says_what_a_person_needs_and_little_else(tmp_path: Path) -> None:
    """Nothing of the banners and warnings of what it is made of."""
    program = str(Path(sys.executable).with_name("arrowquant"))
    command = [program, "serve", "--port", str(free_port())]
    environment = os.environ | {"ARROWQUANT_DATA_DIR": str(tmp_path), "COLUMNS": "80"}
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        lines = []
        while not (lines and lines[-1].startswith("export ")):
            lines.append(server.stdout.readline())
            assert lines[-1], server.communicate()[1]
    finally:
        server.send_signal(signal.SIGINT)
        rest, errors = server.communicate(timeout=60)
    assert lines[0].startswith("ArrowQuant on http://127.0.0.1:")
    assert f"  data       {tmp_path}\n" in lines
    assert server.returncode == 0
    for noise in ("SecurityWarning", "Redis is starting", "[config]", "HTTP Request", "Traceback"):
        assert noise not in "".join(lines) + rest + errors


def test_a_signal_may_come_at_any_moment_of_the_wait() -> None:
    """The handler runs in the thread that waits, wherever that happens to be."""
    for _ in range(300):
        stop = standalone.Stop()
        earlier = signal.signal(signal.SIGALRM, stop.ask)
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-5)
            assert stop.wait(10)
        finally:
            signal.signal(signal.SIGALRM, earlier)


def test_the_first_key_may_do_everything(tmp_path: Path) -> None:
    settings = Settings.load(data_dir=tmp_path, port=8)
    broker = standalone.Broker("filesystem://", None, "files")
    console = Console(file=io.StringIO(), width=400)
    render.served(console, settings, broker)
    render.served(console, settings, broker)
    shown: str = console.file.getvalue()  # type: ignore[attr-defined]
    (secret,) = re.findall(r"ARROWQUANT_API_KEY=(\S+)", shown)  # made and shown once
    deps = wire(settings)
    key = deps.keys.find(secret)
    deps.close()
    assert key is not None
    assert key.scopes == ALL_SCOPES
