"""A server process as tests need it: ready when started, gone when discarded, and breakable."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 20.0


class ServerMissing(RuntimeError):
    """The program of a server is not installed."""

    def __init__(self, program: str, remedy: str = "make servers") -> None:
        super().__init__(f"{program} is not installed; run `{remedy}`")


class ServerFailed(RuntimeError):
    """A server ended, or did not answer in time. The text carries the end of its output."""


@dataclass(frozen=True)
class Account:
    """The system account that a server runs as."""

    uid: int
    gid: int


_chosen: set[int] = set()


def free_port(offsets: Sequence[int] = (0,)) -> int:
    """Find a port that is free, and so are the ports at the given distances from it.

    Drawn from below the range that the kernel gives to outgoing connections, so that nothing takes
    it between this call and the server's start, or while a stopped server is down.
    """
    draw = random.SystemRandom()
    for _ in range(1000):
        port = draw.randrange(11_000, 22_000)
        ports = {port + offset for offset in offsets}
        if _chosen.isdisjoint(ports) and all(map(_can_bind, ports)):
            _chosen.update(ports)
            return port
    raise ServerFailed("no free port found")


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


class Server:
    """A process in a group of its own, with its folder and the output in `output.log` there."""

    name = "server"
    # What ends the process at once and leaves nothing behind, when its data is no longer wanted.
    discard_signal = signal.SIGKILL

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix=f"arrowquant-{self.name}-"))
        self.account: Account | None = None
        self._process: subprocess.Popen[bytes] | None = None

    # What a server must say about itself.

    def command(self) -> list[str]:
        """The program and its arguments; it must stay in the foreground."""
        raise NotImplementedError

    def environment(self) -> Mapping[str, str]:
        """Variables set for the process over the inherited ones."""
        return {}

    def prepare(self) -> None:
        """Make what the first start needs; called before every start."""

    def ping(self) -> None:
        """Do one round trip, or raise whatever the client library raises."""
        raise NotImplementedError

    # What every server can do.

    def start(self) -> Self:
        """Start the process and wait until it answers."""
        if self.running:
            return self
        self.prepare()
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                cwd=self.directory,
                env={**os.environ, **self.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=self.account.uid if self.account else None,
                group=self.account.gid if self.account else None,
                extra_groups=[] if self.account else None,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Ask the process to end, as an operator would, and wait for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process and its children at once, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> Self:
        """Stop and start again: same ports, same data."""
        self.stop()
        return self.start()

    def pause(self) -> None:
        """Freeze the process: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        self._signal(signal.SIGCONT)

    def discard(self) -> None:
        """End the process and remove its folder."""
        self._end(self.discard_signal)
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def output(self) -> Path:
        return self.directory / "output.log"

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.discard()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.discard()

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        delay = 0.005
        while True:
            try:
                self.ping()
            except Exception as error:
                if not self.running:
                    raise ServerFailed(f"{self.name} ended at start\n{self._tail()}") from error
                if time.monotonic() > deadline:
                    message = f"{self.name} gave no answer in {START_SECONDS:.0f} s\n{self._tail()}"
                    raise ServerFailed(message) from error
            else:
                return
            time.sleep(delay)
            delay = min(delay * 1.5, 0.25)

    def _end(self, number: signal.Signals) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            self._signal(signal.SIGCONT)
            process.send_signal(number)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                pass
        # Children that outlived their parent, and a parent that did not listen.
        self._signal(signal.SIGKILL)
        process.wait(STOP_SECONDS)
        self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            pass

    def _tail(self) -> str:
        return self.output.read_text(errors="replace")[-4000:] if self.output.exists() else ""
