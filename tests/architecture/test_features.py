"""The page of features: complete, and every test that it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

# What people who order quantized models expect of a service, whether anybody offers it or not.
EXPECTED = (
    "REST submit, async id",
    "Typed scheme (bits, group, sym)",
    "INT2 / INT4 / INT8",
    "Diffusion models (text/DiT/audio)",
    "CPU-only run",
    "Source in my S3 (custom endpoint)",
    "Output to my bucket, KMS",
    "Streaming, bounded RAM/disk",
    "Dry run / estimate",
    "Fail early at create",
    "Idempotent submit",
    "Batch / array submit",
    "Several bit-widths in one job",
    "Percent, bytes, ETA",
    "Live stream",
    "Steps/phases",
    "Cancel",
    "Pause / resume",
    "Resume after crash",
    "Time/queue limits",
    "Error code, user vs system",
    "Logs by API",
    "Filter/paginate list",
    "Tags/labels",
    "Priority / quota / fair share",
    "Quality report",
    "Unquantized tensors listed, why",
    "Digests, resolved config, replay",
    "Verify artifact (reload + compare)",
    "Load elsewhere",
    "Webhooks",
    "Auth, tenants",
    "Secrets never echoed",
    "Delete / retention",
    "Dashboard",
    "Metrics (Prometheus/OTel)",
    "Self-host, open source",
)
PEERS = ["NS", "SM", "QC", "NM", "AL", "TG", "LA", "LN", "HF"]


@pytest.fixture(scope="module")
def table(root: Path) -> list[list[str]]:
    text = (root / "docs" / "features.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_every_expectation_has_a_row(table: list[list[str]]) -> None:
    head, _, *rows = table
    assert head == ["feature", *PEERS, "ArrowQuant", "proved by"]
    assert [row[0] for row in rows] == list(EXPECTED)
    assert {len(row) for row in rows} == {len(head)}
    assert all(all(row) for row in rows)


def test_every_row_names_tests_that_exist(root: Path, table: list[list[str]]) -> None:
    for row in table[2:]:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row[-1])
        assert row[-1] == " ".join(f"`{file}::{name}`" for file, name in named)
        assert named, row[0]
        for file, name in named:
            assert name in _tests(root / file), f"{row[0]}: {file} has no {name}"


def _tests(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
