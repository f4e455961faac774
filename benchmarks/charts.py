"""Small SVG charts: bars on one axis, and lines or points on two.

Each has a panel of its own in the reader's colours, light or dark by the system's preference, so
it is legible on any page. Colours differ in lightness too; every bar has its number beside it, and
every series its name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 760
FONT = "-apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
# panel, text, faint text, grid, then the series
LIGHT = ("#ffffff", "#1f2328", "#59636e", "#d1d9e0")
DARK = ("#0d1117", "#f0f6fc", "#9aa4af", "#3d444d")
SERIES_LIGHT = (
    *("#0550ae", "#bc4c00", "#116329", "#8250df", "#a40e26", "#57606a"),
    *("#0f7b8a", "#7d5a00", "#bf3989", "#1f2328"),
)
SERIES_DARK = (
    *("#79c0ff", "#f0a35e", "#56d364", "#d2a8ff", "#ff9492", "#b1bac4"),
    *("#66d9e8", "#e3c341", "#ff9bce", "#f0f6fc"),
)


def style(dark: bool) -> str:
    """The classes of one scheme."""
    panel, text, faint, grid = DARK if dark else LIGHT
    rules = [
        f".panel{{fill:{panel};stroke:{grid}}}",
        f"text{{fill:{text};font-family:{FONT};font-size:12px}}",
        ".title{font-size:15px;font-weight:600}",
        f".faint{{fill:{faint}}}",
        f".grid{{stroke:{grid};stroke-width:1}}",
        f".tag{{stroke:{panel};stroke-width:4px;stroke-linejoin:round;paint-order:stroke}}",
    ]
    for number, colour in enumerate(SERIES_DARK if dark else SERIES_LIGHT):
        rules.append(f".f{number}{{fill:{colour}}}")
        rules.append(f".l{number}{{stroke:{colour};stroke-width:2;fill:none}}")
    return "".join(rules)


def document(height: float, title: str, body: Sequence[str]) -> str:
    """A whole picture; the second set of colours applies where the reader prefers dark."""
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
            f'width="{WIDTH}" height="{height:g}" role="img" aria-label="{escape(title)}">',
            f"<style>{style(dark=False)}@media(prefers-color-scheme:dark){{{style(dark=True)}}}</style>",
            f'<rect class="panel" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="6"/>',
            text(16, 26, title, "title"),
            *body,
            "</svg>\n",
        )
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """Words at a place."""
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{named}>{escape(words)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str = "grid") -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


@dataclass(frozen=True, slots=True)
class Bar:
    """A row: its name, its length, what is written beside it, and which series it belongs to."""

    name: str
    value: float
    label: str
    series: int = 0


def bars(
    title: str,
    rows: Sequence[Bar],
    axis: str,
    *,
    log: bool = False,
    legend: Sequence[str] = (),
    mark: float | None = None,
) -> str:
    """Horizontal bars. With `log` their lengths are logarithms, from the power of ten below."""
    left, right, top, step = 250.0, WIDTH - 90.0, 44.0 + 20 * bool(legend), 24.0
    values = [row.value for row in rows] + ([mark] if mark else [])
    low = 10.0 ** math.floor(math.log10(min(values))) if log else 0.0
    ticks = _powers(low, max(values)) if log else nice_ticks(0.0, max(values))
    high = max(*values, ticks[-1])

    def place(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if log else value / high
        return left + (right - left) * share

    bottom = top + step * len(rows)
    body = _legend(legend, 16, 48)
    for tick in ticks:
        body.append(_line(place(tick), top, place(tick), bottom))
        body.append(text(place(tick), bottom + 16, short(tick), "faint", "middle"))
    if mark:
        body.append(_line(place(mark), top, place(mark), bottom, "l4"))
    for number, row in enumerate(rows):
        y = top + step * number
        body.append(text(left - 8, y + 16, row.name, "", "end"))
        width = max(1.0, place(row.value) - left)
        body.append(
            f'<rect class="f{row.series}" x="{left:.1f}" y="{y + 4:.1f}" '
            f'width="{width:.1f}" height="16" rx="2"/>'
        )
        body.append(text(left + width + 6, y + 16, row.label, "tag"))
    body.append(text((left + right) / 2, bottom + 34, axis, "faint", "middle"))
    return document(bottom + 46, title, body)


@dataclass(frozen=True, slots=True)
class Series:
    """Points in order of x; `joined` draws a line through them, `dots` marks them, `labels` name them."""

    name: str
    points: Sequence[tuple[float, float]]
    joined: bool = True
    dots: bool = True
    labels: Sequence[str] = ()


def lines(
    title: str, series: Sequence[Series], x_axis: str, y_axis: str, *, log_x: bool = False
) -> str:
    """Series over a common pair of axes."""
    legend = _legend([s.name for s in series], 16, 50, [s.dots for s in series])
    lower = 18.0 * (_legend_rows([s.name for s in series]) - 1)
    left, right, top, bottom = 64.0, WIDTH - 36.0, 92.0 + lower, 420.0 + lower
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points]
    x_ticks = sorted(set(xs)) if log_x else nice_ticks(min(xs), max(xs))
    y_ticks = nice_ticks(0.0, max(ys))
    x0, x1 = (min(xs), max(xs)) if log_x else (x_ticks[0], x_ticks[-1])
    y0, y1 = y_ticks[0], y_ticks[-1]

    def across(x: float) -> float:
        if x1 == x0:
            return (left + right) / 2
        share = math.log(x / x0) / math.log(x1 / x0) if log_x else (x - x0) / (x1 - x0)
        return left + (right - left) * share

    def up(y: float) -> float:
        return bottom - (bottom - top) * (y - y0) / (y1 - y0)

    body = legend
    for tick in y_ticks:
        body.append(_line(left, up(tick), right, up(tick)))
        body.append(text(left - 8, up(tick) + 4, short(tick), "faint", "end"))
    for tick in x_ticks:
        body.append(_line(across(tick), bottom, across(tick), bottom + 5))
        body.append(text(across(tick), bottom + 20, short(tick), "faint", "middle"))
    for number, one in enumerate(series):
        kind = number % len(SERIES_LIGHT)
        if one.joined:
            path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in one.points)
            body.append(f'<polyline class="l{kind}" points="{path}"/>')
        if one.dots:
            body += [_mark(number, across(x), up(y)) for x, y in one.points]
    for one in series:  # over all points
        for (x, y), label in zip(one.points, one.labels, strict=False):
            body += [text(across(x), up(y) - 12, label, "tag", "middle")] if label else []
    body.append(text((left + right) / 2, bottom + 40, x_axis, "faint", "middle"))
    body.append(text(left - 48, top - 10, y_axis, "faint"))
    return document(bottom + 54, title, body)


def _mark(number: int, x: float, y: float) -> str:
    """A point in the colour and the shape of its series: round, square, or standing on a corner."""
    kind, shape = number % len(SERIES_LIGHT), number % 3
    if shape == 0:
        return f'<circle class="f{kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
    turned = f' transform="rotate(45 {x:.1f} {y:.1f})"' if shape == 2 else ""
    return f'<rect class="f{kind}" x="{x - 3.7:.1f}" y="{y - 3.7:.1f}" width="7.4" height="7.4"{turned}/>'


def _legend(
    names: Sequence[str], x: float, y: float, dots: Sequence[bool] | None = None
) -> list[str]:
    """Names with their colours: those of bars, or of series with or without dots."""
    body = []
    for number, (name, (row, place)) in enumerate(zip(names, _places(names, x), strict=True)):
        kind, height = number % len(SERIES_LIGHT), y + 18 * row
        if dots is None:
            body.append(
                f'<rect class="f{kind}" x="{place:.1f}" y="{height - 9:.1f}" '
                'width="10" height="10" rx="2"/>'
            )
        elif dots[number]:
            body.append(_mark(number, place + 5, height - 4))
        else:
            body.append(_line(place, height - 4, place + 11, height - 4, f"l{kind}"))
        body.append(text(place + 15, height, name))
    return body


def _places(names: Sequence[str], x: float) -> list[tuple[int, float]]:
    """The row of each name in a legend, and where in it the name begins."""
    found, row, place = [], 0, x
    for name in names:
        wide = 28 + 6.6 * len(name)
        if place + wide > WIDTH - 10 and place > x:
            row, place = row + 1, x
        found.append((row, place))
        place += wide
    return found


def _legend_rows(names: Sequence[str]) -> int:
    return 1 + max((row for row, _ in _places(names, 16)), default=0)


def _powers(low: float, high: float) -> list[float]:
    first = round(math.log10(low))
    return [10.0**power for power in range(first, math.ceil(math.log10(high)) + 1)]


def nice_ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers from at or below low to at or above high."""
    if high <= low:
        high = low + 1.0
    raw = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw)
    first = math.floor(low / step)
    count = math.ceil(high / step - 1e-9) - first
    return [round((first + k) * step, 10) for k in range(count + 1)]


def short(value: float) -> str:
    """A number as briefly as an axis wants it."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):.3g}{letter}"
    return f"{value:g}"
