"""What a worker's parent does beside Celery: a sign of life, and the exporter of its metrics."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import psutil
from celery import bootsteps

from service.settings import Settings
from workers import pulse

TICK_S: Final = 5.0
_exporter: subprocess.Popen[bytes] | None = None


class Tick(bootsteps.StartStopStep):
    """Touches a file from the loop that takes messages from the broker.

    The loop's own timer runs it, so that it stops when the loop does.
    """

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        folder = os.environ.get(pulse.FOLDER_VARIABLE)
        self._pulse = pulse.Pulse(Path(folder) if folder else None, pulse.CONSUMER_NAME)

    def start(self, parent: Any) -> None:
        """With every new connection to the broker."""
        self._pulse.idle()
        parent.timer.call_repeatedly(TICK_S, self._pulse.idle)


def begin(settings: Settings) -> None:
    """Before the pool forks: a run folder, known to every process of this worker."""
    global _exporter
    folder = pulse.make_folder(settings.data_dir, psutil.pid_exists)
    os.environ[pulse.FOLDER_VARIABLE] = str(folder)
    if settings.metrics_port is not None:
        place = (settings.metrics_host, str(settings.metrics_port), str(folder))
        _exporter = subprocess.Popen(
            [sys.executable, "-m", "workers.exporter", *place], stdin=subprocess.DEVNULL
        )


def end() -> None:
    """After the pool has ended."""
    if _exporter is not None:
        _exporter.terminate()
        _exporter.wait()
    folder = os.environ.pop(pulse.FOLDER_VARIABLE, None)
    if folder:
        pulse.remove(Path(folder))
