"""A worker's signs of progress: files whose time of change says when it last got somewhere.

Being there is no sign of life: a process can have its id and its sockets and do nothing for ever.
So each part touches its file where it has really made a step: the parent in the loop in which it
takes messages, a pool process between looks into the ledger and with every tile of its work.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Final

# The run folder of a worker, which also holds what it counts (workers.counters).
FOLDER_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
CONSUMER_NAME: Final = "consumer"
CONSUMER: Final = f"{CONSUMER_NAME}.idle"
_AT_MOST_EVERY_S: Final = 1.0


class Pulse:
    """One part's file. `idle` and `busy` may each last differently long."""

    def __init__(self, folder: Path | None, name: str) -> None:
        self._folder, self._name = folder, name
        self._last = float("-inf")
        self._mode = ""

    def idle(self) -> None:
        """Nothing to do, and looked for it."""
        self._beat("idle", "busy")

    def busy(self) -> None:
        """A step of work was made."""
        self._beat("busy", "idle")

    def _beat(self, mode: str, other: str) -> None:
        now = time.monotonic()
        if self._folder is None or (mode == self._mode and now - self._last < _AT_MOST_EVERY_S):
            return
        try:
            (self._folder / f"{self._name}.{mode}").touch()
            if mode != self._mode:
                (self._folder / f"{self._name}.{other}").unlink(missing_ok=True)
        except OSError:
            return  # a full disk must not stop the work; the probe will tell
        self._mode, self._last = mode, now


@cache
def of_pool_process() -> Pulse:
    """That of this process, by its place in the pool: a successor goes on with it."""
    from billiard.process import current_process

    folder = os.environ.get(FOLDER_VARIABLE)
    place = getattr(current_process(), "index", 0)
    return Pulse(Path(folder) if folder else None, f"place{place}")


def make_folder(data_dir: Path, alive: Callable[[int], bool]) -> Path:
    """The run folder of this process; those that dead workers left behind are removed."""
    parent = data_dir / "workers"
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.iterdir():
        if old.name.isdigit() and (int(old.name) == os.getpid() or not alive(int(old.name))):
            remove(old)
    folder = parent / str(os.getpid())
    folder.mkdir(exist_ok=True)
    return folder


def remove(folder: Path) -> None:
    """The folder and its files, as far as that is possible."""
    try:
        for file in folder.iterdir():
            file.unlink(missing_ok=True)
        folder.rmdir()
    except OSError:
        return
