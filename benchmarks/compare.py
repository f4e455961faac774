"""Two results of the same benchmark, record by record.

Seconds of different days do not compare on a shared machine; ratios within a run do. So what is
compared is our time over that of the contestant we ran against in the same rounds, where there is
one, and the median of our seconds per weight otherwise. SQNR and bits are compared as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.timing import median_ratio

# The contestant that a benchmark's ratio is taken against, best first.
REFERENCES = ("traffic", "peer", "move", "imports", "plain loop, scalar")


@dataclass(frozen=True, slots=True)
class Change:
    """A measured value then and now; `worse` is how much worse it became, as a fraction."""

    record: str
    what: str
    old: float | None
    new: float | None
    worse: float

    def __str__(self) -> str:
        if self.old is None or self.new is None:
            return f"{self.record}: {self.what} was {'not ' * (self.old is None)}measured before"
        return f"{self.record}: {self.what} {self.old:.4g} -> {self.new:.4g} ({self.worse:+.1%})"


def regressions(old: dict[str, Any], new: dict[str, Any], threshold: float) -> list[Change]:
    """What became worse by more than the threshold, or is not there any more."""
    return [change for change in changes(old, new) if change.worse > threshold]


def changes(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Change]:
    """Every value of the old result beside that of the new one."""
    if old["benchmark"] != new["benchmark"]:
        raise ValueError(f"{old['benchmark']} cannot be compared with {new['benchmark']}")
    found = {record["name"]: record for record in new["records"]}
    for record in old["records"]:
        name = record["name"]
        if name not in found:
            yield Change(name, "everything", 0.0, None, float("inf"))
            continue
        before, now = values(record), values(found[name])
        for what, value in before.items():
            if what not in now:
                yield Change(name, what, value, None, float("inf"))
                continue
            higher_is_better = what in ("sqnr_db", "cosine")
            loss = value - now[what] if higher_is_better else now[what] - value
            yield Change(name, what, value, now[what], loss / abs(value) if value else 0.0)


def values(record: dict[str, Any]) -> dict[str, float]:
    """What of a record is comparable from one day to another."""
    found: dict[str, float] = {}
    seconds = record.get("seconds", {})
    ours = seconds.get("ours") or seconds.get("warm")
    reference = next((name for name in REFERENCES if seconds.get(name)), None)
    if ours and reference:
        found[f"time over {reference}"] = median_ratio(ours, seconds[reference])
    elif ours and len(ours) > 1:
        found["seconds per weight"] = median(ours) / record.get("weights", 1)
    for key in (
        "sqnr_db",
        "cosine",
        "bits_per_weight",
        "instructions_per_weight",
        "peak_rss_bytes",
    ):
        if isinstance(record.get(key), int | float):
            found[key] = record[key]
    runs = record.get("processes", {}).get("ours", [])
    if runs:
        found["peak_rss_bytes"] = median(run["peak_rss_bytes"] for run in runs)
    return found
