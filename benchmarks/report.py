"""docs/benchmark-report.md and its charts, from the raw JSON alone: `python -m benchmarks.report`

No number in the report is typed: each is computed from a result file by a section below. What was
not measured says so.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import (
    sections_advice,
    sections_bits,
    sections_kernels,
    sections_load,
    sections_quality,
    sections_system,
    targets,
)
from benchmarks.findings import Findings
from benchmarks.page import Page
from benchmarks.results import FOLDER, load_all

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "benchmark-report.md"
CHARTS = ROOT / "docs" / "charts"

SECTIONS = (
    sections_system.summary,
    targets.section,
    sections_system.method,
    sections_kernels.speed,
    sections_kernels.simd,
    sections_kernels.profile,
    sections_kernels.parallel,
    sections_system.memory,
    sections_kernels.peers,
    sections_bits.bits,
    sections_quality.layers,
    sections_quality.calibrated,
    sections_quality.diffusion_cost,
    sections_kernels.steps,
    sections_kernels.switches,
    sections_bits.fits,
    sections_system.size,
    sections_system.stores,
    sections_system.cold_start,
    sections_load.load,
    sections_load.batches,
    sections_advice.profiles,
    sections_advice.recommendations,
    sections_quality.claims,
    sections_system.appendix,
)


def generate(results: Path = FOLDER) -> dict[str, str]:
    """The report and its charts by file name, all text."""
    found = Findings(load_all(results))
    page = Page()
    page.add("# Benchmark report")
    for section in SECTIONS:
        section(found, page)
    return {TARGET.name: page.text(), **page.charts}


def main(arguments: list[str] | None = None) -> None:
    """Write the files; remove charts that are no longer drawn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--results", type=Path, default=FOLDER)
    parser.add_argument("--docs", type=Path, default=TARGET.parent)
    given = parser.parse_args(arguments)
    charts = given.docs / CHARTS.name
    charts.mkdir(parents=True, exist_ok=True)
    files = generate(given.results)
    for old in charts.glob("*.svg"):
        if old.name not in files:
            old.unlink()
    for name, text in files.items():
        folder = charts if name.endswith(".svg") else given.docs
        (folder / name).write_text(text)
        print(folder / name)


if __name__ == "__main__":
    main()
