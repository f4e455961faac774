"""The board and the alerts ask for what is really exposed, by its name and its labels."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.domain.figures import Figures
from service.web.metrics import Metrics
from workers import counters
from workers.exporter import MemoryCollector

FOLDER = Path(__file__).resolve().parents[2] / "helm" / "observability"


class Ledger:
    """Something of everything."""

    def read(self) -> Figures:
        return Figures(
            jobs={"QUEUED": 1},
            failed={"no_space": 1},
            queued={1: 1},
            oldest_queued_s={1: 2.0},
            claimable={1: 1},
        )


def board() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "grafana.json").read_text()))


def queries() -> Iterator[str]:
    for panel in board()["panels"]:
        for target in panel["targets"]:
            yield target["expr"]
    for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]


@pytest.fixture(scope="module")
def exposed() -> dict[str, set[str]]:
    """Every series of API and worker in Prometheus's format, with the names of its labels."""
    api = Metrics()
    api.watch(Ledger())
    api.latency.labels("GET", "/v1/jobs", "200").observe(0.1)
    counters.read_bytes.inc(0)
    counters.written_bytes.inc(0)
    counters.tensors.labels("DONE").inc(0)
    counters.units.labels("quantize", "done").inc(0)
    counters.stage_seconds.labels("fetch").inc(0)
    if MemoryCollector not in {type(c) for c in counters.REGISTRY._collector_to_names}:
        counters.REGISTRY.register(MemoryCollector(psutil.Process()))
    text = (generate_latest(api.registry) + generate_latest(counters.REGISTRY)).decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("query", sorted(set(queries())))
def test_a_query_asks_for_what_there_is(query: str, exposed: dict[str, set[str]]) -> None:
    bare = re.sub(r'"[^"]*"', '""', query)
    names = set(re.findall(r"\b(?:arrowquant|process)_\w+", bare))
    assert names
    assert names <= exposed.keys()
    asked = set(re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", bare))
    for group in re.findall(r"\bby\s*\(([^)]*)\)", bare):
        asked |= {label.strip() for label in group.split(",")}
    assert asked <= set().union(*(exposed[name] for name in names))
    assert bare.count("(") == bare.count(")")


def test_everything_of_ours_is_on_the_board(exposed: dict[str, set[str]]) -> None:
    asked = " ".join(queries())
    helpers = ("_created", "_sum", "_count", "_bucket")
    ours = {n for n in exposed if n.startswith("arrowquant_") and not n.endswith(helpers)}
    assert {name for name in ours if name not in asked} == set()


def test_panels_do_not_overlap_and_have_names() -> None:
    panels = board()["panels"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(panels)
    assert len({p["title"] for p in panels}) == len(panels)


def test_the_page_names_every_metric(exposed: dict[str, set[str]]) -> None:
    page = (FOLDER.parents[1] / "docs" / "operations.md").read_text()
    helpers = ("_created", "_sum", "_count", "_bucket")
    ours = {n for n in exposed if n.startswith("arrowquant_") and not n.endswith(helpers)}
    ours.add("arrowquant_http_request_duration_seconds")
    assert {name for name in ours if f"`{name}`" not in page} == set()
