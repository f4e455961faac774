"""The page on security, held to the tests that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What a service of this kind has to expect. A threat that is met in a new way gets a row more.
THREATS = (
    "Unauthenticated API",
    "Privilege escalation",
    "Code in jobs",
    "Pickle weights",
    "safetensors header attacks",
    "Arrow in and out",
    "Zip bombs, huge bodies",
    "SSRF via S3 endpoint",
    "SSRF via webhooks",
    "Forged and replayed webhooks",
    "Path traversal",
    "TOCTOU on source",
    "Tenant isolation",
    "Secrets",
    "Broker takeover",
    "Resource exhaustion",
    "Dashboard",
    "Supply chain",
)


@pytest.fixture(scope="module")
def rows() -> list[list[str]]:
    """The cells of the table, without its head."""
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_every_threat_has_an_answer(rows: list[list[str]]) -> None:
    met = {row[0] for row in rows}
    assert [t for t in THREATS if not any(m == t or m.startswith(t + ":") for m in met)] == []


def test_every_row_names_what_is_done_and_attacks_that_exist(rows: list[list[str]]) -> None:
    for row in rows:
        assert len(row) == 3, row
        threat, answer, attacks = row
        assert threat.split(":")[0] in THREATS, threat
        assert len(answer) > 20, threat
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", attacks)
        assert named, threat
        assert attacks == " ".join(f"`{file}::{name}`" for file, name in named), threat
        for file, name in named:
            assert name.startswith("test_"), (threat, name)
            assert name in _functions(ROOT / file), f"{threat}: {file} has no {name}"


def _functions(file: Path) -> set[str]:
    """Names of the tests of a file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}
