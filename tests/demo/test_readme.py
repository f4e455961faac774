"""What README.md says of the demonstration is what was measured, and what it links to is there."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from rich.console import Console

from scripts.demonstration import measure, show

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_measured_run() -> None:
    file = Path(measure.__file__).with_name("measured.json")
    result = json.loads(file.read_text(encoding="utf-8"))
    output = io.StringIO()
    show.result(
        Console(file=output, width=80),
        [measure.Row.of(fields) for fields in result["widths"]],
        result["model"]["source_bytes"],
        result["paraphrase_original"],
        compiled=result["compiled"],
    )
    printed = [line.rstrip() for line in output.getvalue().splitlines()]
    start = README.index("Size and weights")
    shown = README[start : README.index("```", start)].splitlines()
    assert len(shown) > 15
    assert [line for line in shown if line not in printed] == []
    assert f"on {result['machine']['cpus']} cores" in README
    assert f"{result['seconds']:.0f} seconds" in README


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    links += re.findall(r"`(tests/[\w/]+\.py)`", README)
    assert [link for link in links if not (ROOT / link).exists()] == []
