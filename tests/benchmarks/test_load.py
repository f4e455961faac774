"""What the load benchmark calls wrong, and what the report says of it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from benchmarks import load, report, results

JOBS = dict.fromkeys(
    ("asked", "answered", "ledger", "the same ones", "succeeded", "manifests"), 1000
)
GOOD: dict[str, Any] = {
    "seconds": {"ours": [100.0]},
    "answers": {"GET 200": 5000, "POST 202": 1100},
    "milliseconds": {"post": [float(n) for n in range(101)], "get": [n / 2 for n in range(101)]},
    "counted": {"post": 1100, "get": 5000},
    "repeated": 100,
    "jobs": JOBS,
    "streams": {
        "open": 500,
        "complete": 500,
        "told_s": 0.5,
        "rss_before_bytes": 100 * 2**20,
        "rss_open_bytes": 110 * 2**20,
        "bytes_per_stream": 10 * 2**20 / 500,
    },
}


def test_a_good_run_has_no_problems() -> None:
    assert load.problems(GOOD) == []


@pytest.mark.parametrize(
    ("field", "name", "value", "problem"),
    [
        ("answers", "POST 503", 1, "1 times POST 503"),
        ("answers", "POST 429", 2, "2 times POST 429"),
        ("jobs", "ledger", 1001, "1000 jobs were asked for; ledger: 1001"),
        ("jobs", "answered", 999, "answered: 999"),
        ("jobs", "succeeded", 998, "succeeded: 998"),
        ("jobs", "manifests", 1001, "manifests: 1001"),
        ("streams", "complete", 499, "499 of 500 streams"),
    ],
)
def test_what_is_lost_or_doubled_or_refused_is_a_failure(
    field: str, name: str, value: int, problem: str
) -> None:
    record = copy.deepcopy(GOOD)
    record[field][name] = value
    (found,) = load.problems(record)
    assert problem in found


def test_quantiles_are_those_of_the_answers() -> None:
    values = load.quantiles([n / 1000 for n in range(1001)])
    assert len(values) == 101
    assert (values[0], values[50], values[99], values[100]) == (0.0, 500.0, 990.0, 1000.0)


def test_the_report_states_them(tmp_path: Path) -> None:
    result = results.Result("load", {})
    labels = {"form": "SQLite, embedded", "clients": 50, "jobs": 1000, "streams": 500}
    result.add("SQLite, embedded", labels, **GOOD)
    result.write(tmp_path)
    made = report.generate(tmp_path)
    page = made[report.TARGET.name]
    assert "| SQLite, embedded | 6,100 | 0 | 1,000 | 1,000 | 1,000 | 1,000 | 100 |" in page
    assert "| SQLite, embedded | `POST /v1/jobs` | 1,100 | 50 | 99 | 100 |" in page
    assert "| SQLite, embedded | 500 | 500 | 0.5 | 20.5 |" in page
    assert "charts/load.svg" in page
    assert "load.svg" in made
