"""A program that runs beside the demonstration: its log in a file, gone at the end in every case."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

HOST = "127.0.0.1"
START_S = 60.0
STOP_S = 30.0
TAIL_LINES = 40


class Failed(Exception):
    """The demonstration cannot go on. The text says why and shows what the programs said."""


class Program:
    """A process in a session of its own, so that Ctrl-C reaches the demonstration alone.

    name    for messages; the output goes to `{name}.log` in the folder
    ready   raises while the program does not answer yet
    ending  the signal that ends it: at once, where nothing of it is wanted any more
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        env: Mapping[str, str],
        ready: Callable[[], object],
        ending: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self._command, self._folder, self._env, self._ready = command, folder, env, ready
        self._ending = ending
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            with self.log.open("wb") as log:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=self._folder,
                    env={**os.environ, **self._env},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask it to end and wait. What does not listen, and what it left behind, is made to end."""
        process = self._process
        if process is None:
            return
        self._process = None
        family = _family(process.pid)
        try:
            if process.poll() is None:
                process.send_signal(self._ending)
                process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            _kill(family)
            process.wait()

    def failed(self, what: str) -> Failed:
        """An error with the end of the log."""
        tail = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        lines = "\n".join(f"  | {line}" for line in tail)
        return Failed(f"{what}\nThe end of {self.log}:\n{lines}")

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + START_S
        while True:
            try:
                self._ready()
                return
            except Exception as error:
                code = self._process.poll() if self._process else None
                if code is not None:
                    raise self.failed(f"{self.name} ended at start with code {code}") from error
                if time.monotonic() > end:
                    message = f"{self.name} gave no answer in {START_S:.0f} s: {error}"
                    raise self.failed(message) from error
            time.sleep(0.05)


def free_port(offsets: Iterable[int] = (0,)) -> int:
    """A port that is free, and so are those at the given distances from it.

    Below the range that outgoing connections are given, so that nothing takes it meanwhile.
    """
    steps, draw = tuple(offsets), random.SystemRandom()
    for _ in range(1000):
        port = draw.randrange(11_000, 22_000)
        if all(_can_bind(port + step) for step in steps):
            return port
    raise Failed("no free port was found")


def _can_bind(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _family(pid: int) -> list[psutil.Process]:
    """The process and all below it: those in sessions of their own hear no signal to its group."""
    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _kill(family: list[psutil.Process]) -> None:
    for process in family:
        try:
            process.kill()  # does nothing to another process that was given the same number
        except psutil.NoSuchProcess:
            pass
