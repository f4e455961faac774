"""The page for operators, held to what it describes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import psycopg
import pytest
from pydantic import ByteSize
from pydantic_core import PydanticUndefined

from service.adapters.sql.engine import migrate
from service.settings import PREFIX, S3Connection, Settings


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs" / "operations.md").read_text()


@pytest.fixture(scope="module")
def table(page: str) -> dict[str, str]:
    """Variables and what the page says of their defaults."""
    rows = re.findall(rf"^\| `({PREFIX}\w+)` \| (.*?) \|", page, re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return dict(rows)


def test_it_names_every_setting(table: dict[str, str], variables: set[str]) -> None:
    assert set(table) == variables


def test_it_mentions_no_other(page: str, variables: set[str]) -> None:
    assert set(re.findall(rf"{PREFIX}\w+", page)) <= variables


def test_it_says_their_defaults(table: dict[str, str]) -> None:
    for name, field in Settings.model_fields.items():
        default = field.default
        if default is PydanticUndefined or default in (None, {}, ()):
            continue  # the page describes what takes their place
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        if isinstance(default, ByteSize):
            shown = f"{default // 2**20}MiB"
        assert table[PREFIX + name.upper()].startswith(f"`{shown}`"), name


def test_it_names_every_field_of_a_connection(page: str) -> None:
    (text,) = re.findall(r"A connection is `(\{.*?\})`", page, re.DOTALL)
    assert set(re.findall(r'"(\w+)"', text)) == {*S3Connection.model_fields, "s3"}


def test_it_names_events_that_are_logged(root: Path, page: str) -> None:
    (cells,) = re.findall(r"## What to watch\n(.*?)\n## ", page, re.DOTALL)
    events = {
        event
        for line in re.findall(r"^\| log (.*?) \|", cells, re.MULTILINE)
        for event in re.findall(r"`(\w+)`", line)
    }
    sources = "".join(
        path.read_text()
        for folder in ("service", "workers")
        for path in (root / folder).rglob("*.py")
    )
    assert events
    assert [event for event in events if f'"{event}"' not in sources] == []


def test_its_queries_can_be_asked(page: str, postgres_database: str) -> None:
    migrate(postgres_database)
    queries = re.findall(r"^\| `(SELECT [^`]*)`", page, re.MULTILINE)
    assert len(queries) == 3
    with psycopg.connect(postgres_database.replace("+psycopg", "")) as connection:
        for query in queries:
            connection.execute(query)


def test_its_links_lead_somewhere(root: Path, page: str) -> None:
    links = [link for link in re.findall(r"\]\(([^)#]+)", page) if "://" not in link]
    assert links
    assert [link for link in links if not (root / "docs" / link).exists()] == []


def test_its_figures_are_the_measured_ones(root: Path, page: str) -> None:
    measured = json.loads((root / "docker" / "measured.json").read_text())
    images, run = measured["images"], measured["run"]
    rows = {
        "image, uncompressed, base included": [
            f"{images[name]['bytes'] / 1e6:.0f} MB" for name in ("api", "worker")
        ],
        "build without any cache (the worker after the API)": [
            f"{images[name]['build_s']} s" for name in ("api", "worker")
        ],
        "start to first answer, or to ready for work": [
            f"{run['api_start_s']:.1f} s",
            f"{run['worker_start_s']:.1f} s",
        ],
        "memory after three jobs": [
            f"{float(run['memory'][name].removesuffix('MB')):.0f} MB" for name in ("api", "worker")
        ],
    }
    for name, figures in rows.items():
        assert f"| {name} | {figures[0]} | {figures[1]} |" in page
    words = " ".join(page.split())
    jobs = run["jobs"]
    assert (
        f"{jobs['4_bits_s']:.1f} s in 4 bits, {jobs['2_bits_s']:.1f} s in 2 and "
        f"{jobs['8_bits_s']:.1f} s in 8" in words
    )
    assert f"ended with {run['drain']['exit_code']} after {run['drain']['stop_s']:.1f} s" in words
    assert run["drain"]["units_begun"] == run["drain"]["units_finished"]
