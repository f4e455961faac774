"""Showing a job as it runs: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from arrowquant.cli import render
from arrowquant.http.client import Client
from arrowquant.http.follow import TERMINAL
from arrowquant.http.types import Job

LINE_EVERY_S = 10.0


def bar(console: Console) -> Progress:
    """A bar of bytes with speed and time left."""
    return Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>5.1f} %"),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        expand=True,
        disable=not console.is_terminal,
    )


def watch(client: Client, job_id: str, *, as_json: bool = False) -> Job:
    """Follow a job to its end; its last form. With `as_json` every event is one line of JSON."""
    job = client.get(job_id)
    if as_json:
        for event in client.watch(job_id):
            render.as_json(event)
        return client.get(job_id)
    console = render.stderr()
    if job.get("state") not in TERMINAL:
        view = _Bar(console) if console.is_terminal else _Lines(console)
        with view:
            # All of its events, from the first: they tell how it came to where it stands.
            for event in client.watch(job_id):
                _show(view, event)
        job = client.get(job_id)
    return job


def _show(view: _View, event: Mapping[str, Any]) -> None:
    data = event.get("data") or {}
    kind = event.get("type")
    if kind == "progress":
        view.update(data.get("progress", data), {})
    elif kind == "state":
        view.update({}, data)
    elif kind == "warning":
        view.warn(str(data.get("message") or data.get("detail") or data.get("code") or data))


class _View:
    """What both ways of showing have in common."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.phase = "queued"
        self.progress: dict[str, Any] = {}

    def __enter__(self) -> None: ...

    def __exit__(self, *exc: object) -> None: ...

    def update(self, progress: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        self.progress |= progress
        if state:
            self.phase = str(state.get("phase") or state.get("state") or self.phase).lower()
        self.draw()

    def draw(self) -> None:
        raise NotImplementedError

    def warn(self, text: str) -> None:
        self.console.print(f"[yellow]warning:[/] {render.clean(text)}", soft_wrap=True)


class _Bar(_View):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._bar = bar(console)
        self._task = self._bar.add_task(self.phase, total=None)

    def __enter__(self) -> None:
        self._bar.start()

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def draw(self) -> None:
        total = self.progress.get("bytes_total") or None
        done = self.progress.get("bytes_done") or 0
        if self.phase == "succeeded" and total:
            done = total
        self._bar.update(self._task, description=self.phase, total=total, completed=done)


class _Lines(_View):
    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._last = ("", 0.0)

    def draw(self) -> None:
        phase, at = self._last
        if phase == self.phase and time.monotonic() - at < LINE_EVERY_S:
            return
        self._last = (self.phase, time.monotonic())
        # The last progress event comes before the artifact is there, which alone makes it 100 %.
        succeeded = self.phase == "succeeded"
        percent = 100.0 if succeeded else float(self.progress.get("percent") or 0)
        text = f"{self.phase} {percent:.1f} %"
        if self.progress.get("bytes_per_s"):
            text += f", {render.rates(self.progress)}"
        if self.progress.get("eta_s") and not succeeded:
            text += f", {render.duration(self.progress['eta_s'])} left"
        self.console.print(text, soft_wrap=True)
