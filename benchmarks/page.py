"""A Markdown page in the making, with the charts it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

NOT_MEASURED = "Not measured yet."


@dataclass(slots=True)
class Page:
    """Blocks of text, and charts by file name."""

    blocks: list[str] = field(default_factory=list)
    charts: dict[str, str] = field(default_factory=dict)

    def add(self, *blocks: str) -> None:
        """Paragraphs, headings, whatever stands between empty lines."""
        self.blocks.extend(block for block in blocks if block)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
        """A table; all columns but the first `left` are set to the right."""
        marks = ["---"] * left + ["---:"] * (len(head) - left)
        lines = [head, marks, *[[cell.replace("|", "\\|") for cell in row] for row in rows]]
        self.add("\n".join(f"| {' | '.join(line)} |" for line in lines))

    def chart(self, name: str, description: str, svg: str) -> None:
        """Show a chart."""
        self.charts[f"{name}.svg"] = svg
        self.add(f"![{description}](charts/{name}.svg)")

    def text(self) -> str:
        return "\n\n".join(self.blocks) + "\n"


def number(value: float, digits: int = 3) -> str:
    """To so many significant digits, without an exponent."""
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    return f"{float(text):,.0f}" if "e" in text or abs(value) >= 10 ** (digits - 1) else text


def times(ratio: float) -> str:
    """A ratio as people say it."""
    return f"{number(ratio, 2 if ratio < 10 else 3)} ×"


def megabytes(nbytes: float) -> str:
    return f"{nbytes / 1e6:,.0f}"


def percent(share: float) -> str:
    return f"{share:.0%}"
