"""The report on the service under load."""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.charts import Series, lines
from benchmarks.findings import Findings
from benchmarks.page import NOT_MEASURED, Page, number

KINDS = (("post", "POST /v1/jobs"), ("get", "GET /v1/jobs/{id}"))


def load(found: Findings, page: Page) -> None:
    """Answers, jobs, times and streams."""
    page.add("## The service under load")
    records = found.records("load")
    if not records:
        page.add(NOT_MEASURED)
        return
    shape = records[0]["labels"]
    page.add(
        f"{shape['jobs']:,} jobs of a tiny model, submitted by {shape['clients']} clients at once, each "
        "following its own to the end; one API process and one worker process, clients on the "
        "same machine. Every tenth job is sent twice with one `Idempotency-Key`. Then "
        f"{shape['streams']} event streams are held open."
    )
    page.table(
        ["form", "answers", "5xx", "asked", "in the ledger", "succeeded", "manifests", "s in all"],
        [_counts(record) for record in records],
    )
    page.table(
        ["form", "request", "answers", "p50 ms", "p99 ms", "slowest ms"],
        [
            [record["name"], f"`{title}`", f"{record['counted'][kind]:,}", *_times(record, kind)]
            for record in records
            for kind, title in KINDS
        ],
        left=2,
    )
    page.table(
        ["form", "open streams", "told the end", "within s", "KiB of the API a stream"],
        [_streams(record) for record in records],
    )
    series = [
        Series(f"{title}: {record['name']}", points, dots=False)
        for record in records
        for kind, title in KINDS
        if (points := list(enumerate(record["milliseconds"][kind]))[:100])
    ]
    page.chart(
        "load",
        "Times of answers under load",
        lines("Answers under load, fastest to slowest", series, "% of the answers", "ms"),
    )


def _counts(record: dict[str, Any]) -> list[str]:
    jobs = record["jobs"]
    failed = sum(n for name, n in record["answers"].items() if name[-3] == "5")
    return [
        record["name"],
        f"{sum(record['answers'].values()):,}",
        str(failed),
        *(f"{jobs[name]:,}" for name in ("asked", "ledger", "succeeded", "manifests")),
        number(record["seconds"]["ours"][0]),
    ]


def _times(record: dict[str, Any], kind: str) -> list[str]:
    values = record["milliseconds"][kind]
    return [number(values[percent]) for percent in (50, 99, 100)]


def _streams(record: dict[str, Any]) -> list[str]:
    streams = record["streams"]
    return [
        record["name"],
        f"{streams['open']:,}",
        f"{streams['complete']:,}",
        number(streams["told_s"]),
        number(streams["bytes_per_stream"] / 1024),
    ]


def batches(found: Findings, page: Page) -> None:
    """Many jobs in one upload."""
    page.add("## Batches")
    records = found.records("batches")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "Jobs uploaded in one file, in the process of the API; then claimed one by one, and cancelled."
    )
    page.table(
        [
            "database",
            "jobs",
            "MB uploaded",
            "s to accept",
            "MiB more of memory",
            "ms to claim",
            "s to cancel",
        ],
        [
            [
                record["name"],
                f"{record['labels']['lines']:,}",
                number(record["body_bytes"] / 1e6),
                number(median(record["seconds"]["ours"])),
                number(record["rss_growth_bytes"] / 2**20),
                number(1e3 * median(record["claim_seconds"])),
                number(record["cancel_seconds"]),
            ]
            for record in records
        ],
    )
