"""The jobs of the demonstration: what is asked for, and a job's way through the service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

import arrowquant
from scripts.demonstration.store import ARTIFACTS, MODELS

PREFIX = "minilm"


@dataclass(frozen=True, slots=True)
class Width:
    """One of the widths that are tried. The gate stays on: what misses it climbs to 4 or 8 bits.

    least_cosine  of the sentence embeddings with the original's, on average: below it the run fails
    rules         exceptions, as the API takes them
    """

    bits: int
    group_size: int
    least_cosine: float
    rules: tuple[Mapping[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Of the artifact: its prefix in the bucket, and the folder it is fetched into."""
        return f"{PREFIX}-{self.bits}bit"

    def request(self) -> dict[str, Any]:
        """The body of `POST /v1/jobs`."""
        return {
            "name": self.name,
            "labels": {"demo": "minilm"},
            "source": {"connection": MODELS, "prefix": f"{PREFIX}/"},
            "recipe": {
                "bits": self.bits,
                "group_size": self.group_size,
                "method": "lsq",
                "rules": list(self.rules),
            },
            "output": {"connection": ARTIFACTS, "prefix": f"{self.name}/"},
        }


# Embedding tables are stored in 4 bits at least, unless a rule says otherwise. Here the table is
# half of the model: without the rule, 2 bits would hardly be smaller than 4.
EMBEDDINGS_TOO = {"match": "embeddings.word_embeddings.weight", "bits": 2}
WIDTHS = (
    Width(8, 64, least_cosine=0.999),
    Width(4, 64, least_cosine=0.95),
    Width(2, 32, least_cosine=0.6, rules=(EMBEDDINGS_TOO,)),
)


@dataclass(frozen=True, slots=True)
class Made:
    """A job that succeeded, and the folder its artifact was fetched into."""

    width: Width
    job: Mapping[str, Any]
    folder: Path

    @property
    def seconds(self) -> float:
        """From the first claim by a worker to the published manifest, by the server's clock."""
        start, end = (datetime.fromisoformat(self.job[f"{at}_time"]) for at in ("start", "end"))
        return (end - start).total_seconds()


def make(client: arrowquant.Client, width: Width, folder: Path, console: Console) -> Made:
    """Submit, watch, fetch into a folder below the one given. Raises JobFailed unless it succeeds."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(_label(width, "queued"), total=None)
        job = client.submit(width.request())
        for event in client.watch(job["id"]):
            data = event["data"]
            if event["type"] == "progress":
                bar.update(task, total=data["bytes_total"], completed=data["bytes_done"])
            elif event["type"] == "state":
                phase = data.get("phase") or data["state"]
                bar.update(task, description=_label(width, phase.lower()))
        job = client.wait(job["id"])
        done = job["progress"]["bytes_total"]
        bar.update(task, description=_label(width, "fetching"), total=done, completed=done)
        fetched = client.download(job["id"], folder / width.name)
        bar.update(task, description=_label(width, "done"))
    return Made(width, job, fetched)


def _label(width: Width, phase: str) -> str:
    return f"{width.bits} bits  {phase:<10}"
