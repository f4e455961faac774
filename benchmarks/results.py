"""Raw results as JSON: every run's seconds, what was measured on and with, and what failed."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import describe

FOLDER = Path(__file__).with_name("results")


@dataclass(slots=True)
class Result:
    """One benchmark's outcome, in the making.

    records   each has a `name` that is the same from run to run, `labels`, and lists of raw seconds
              in `seconds`: by contestant, one entry a round; the contestant `ours` is ours
    failures  what could not be measured: `name` and `error`
    """

    benchmark: str
    options: dict[str, Any]
    machine: dict[str, Any] = field(default_factory=describe)
    records: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)

    def add(self, name: str, labels: dict[str, Any], **measured: Any) -> dict[str, Any]:
        """Keep a record, and say so."""
        record = {"name": name, "labels": labels, **measured, "load": round(os.getloadavg()[0], 2)}
        self.records.append(record)
        return record

    def fail(self, name: str, error: str) -> None:
        """Keep a failure, and say so loudly."""
        self.failures.append({"name": name, "error": error})
        print(f"  FAILED {name}: {error}", file=sys.stderr, flush=True)

    def write(self, folder: Path) -> Path:
        """As FOLDER/BENCHMARK.json."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.benchmark}.json"
        content = {
            "benchmark": self.benchmark,
            "options": self.options,
            "machine": self.machine,
            "load_average_after": [round(load, 2) for load in os.getloadavg()],
            "records": [rounded(record) for record in self.records],
            "failures": self.failures,
        }
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path


def rounded(value: Any) -> Any:
    """Numbers to seven digits: enough for any clock, and the files stay readable."""
    if isinstance(value, float):
        return float(f"{value:.7g}")
    if isinstance(value, dict):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [rounded(entry) for entry in value]
    return value


def load(path: Path) -> dict[str, Any]:
    """A result file."""
    content: dict[str, Any] = json.loads(path.read_text())
    for run in content.pop("runs", []):  # the form in which `benchmarks.memory` writes it
        record = {"name": run["form"], "labels": {"form": run["form"]}, **run}
        record["seconds"] = {"ours": [run["seconds"]]}
        content.setdefault("records", []).append(record)
    return {"options": {}, "failures": [], **content}


def load_all(folder: Path) -> dict[str, dict[str, Any]]:
    """Every result in a folder, by benchmark."""
    return {path.stem: load(path) for path in sorted(folder.glob("*.json"))}
