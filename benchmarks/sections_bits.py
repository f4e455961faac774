"""The report on bits: dB against Shannon's bound, and what each step of the fit brings."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.accuracy import shannon_db
from benchmarks.charts import Series, lines
from benchmarks.findings import Findings, Record
from benchmarks.page import NOT_MEASURED, Page

NARROW = 5.0  # bits a weight that charts go to: above, nothing distinguishes the methods
RATES = (2.125, 2.375, 2.625, 3.25, 3.5, 4.25, 4.5, 5.0)
SOURCES = (("gaussian", "Independent Gaussian"), ("llm-like", "llm-like"))
# The steps of the search for a better fit, with their usual settings.
STEPS = (
    ("nearest code, groups of 64", "minmax"),
    ("scales by least squares", "lsq"),
    ("scales of two levels, fitted jointly", "superblock"),
    ("trellis codes after a rotation", "rotated trellis"),
)


def bits(found: Findings, page: Page) -> None:
    """dB per bit against Shannon."""
    page.add("## dB per bit, against Shannon's bound")
    records = found.select("accuracy", source="gaussian")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "No code of R bits a weight can represent independent Gaussian weights with a signal to "
        "noise ratio above 6.02 R dB. The gap to that bound, at the bits really stored, scales and "
        "minima included, is what a better method could still win. For llm-like weights the bound "
        "of a Gaussian of the same energy is a guide only: channels of unequal gain allow more. "
        "Fits are plain least squares here, without calibration and with `unbias` 0."
    )
    for source, title in SOURCES:
        chosen = found.select("accuracy", source=source)
        peers = _peers(found) if source == "llm-like" else []
        page.add(f"### {title} weights", "The best of ours that stores no more than so many bits:")
        page.table(
            ["at most", "method", "bits/weight", "SQNR dB", "bound dB", "gap dB"],
            [[f"{rate:g} bits", *_row(best)] for rate, best in _best(chosen)],
            left=2,
        )
        page.chart(
            f"shannon-{source}",
            f"SQNR against bits a weight, {source} weights",
            _plot(source, chosen, peers),
        )
        page.add(f"<details><summary>Every setting, {title} weights</summary>")
        page.table(
            ["method", "bits/weight", "SQNR dB", "bound dB", "gap dB", "cosine"],
            [[*_row(record), f"{record['cosine']:.5f}"] for record in chosen],
        )
        page.add("</details>")
    page.chart(
        "gap",
        "Distance to Shannon's bound by bits a weight, Gaussian weights",
        _gaps(records),
    )


def _best(records: list[Record]) -> Iterable[tuple[float, Record]]:
    for rate in RATES:
        within = [record for record in records if record["bits_per_weight"] <= rate + 0.004]
        if within:
            yield rate, max(within, key=lambda record: float(record["sqnr_db"]))


def _row(record: Record) -> list[str]:
    bound = shannon_db(record["bits_per_weight"])
    return [
        record["name"].partition(": ")[2],
        f"{record['bits_per_weight']:.3f}",
        f"{record['sqnr_db']:.2f}",
        f"{bound:.2f}",
        f"{bound - record['sqnr_db']:.2f}",
    ]


def _methods(records: list[Record]) -> dict[str, list[tuple[float, float]]]:
    """Bits and dB of every setting of few bits, by method."""
    found: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record["bits_per_weight"] <= NARROW:
            point = record["bits_per_weight"], record["sqnr_db"]
            found.setdefault(record["labels"]["method"], []).append(point)
    return {method: sorted(points) for method, points in found.items()}


def _peers(found: Findings) -> list[tuple[str, float, float]]:
    """Other quantizers' bits and dB on the same weights; a name only where none is better with fewer bits."""
    points = [
        (record["name"], record["peer"]["bits_per_weight"], record["peer"]["sqnr_db"])
        for record in found.records("peers")
        if record["peer"].get("sqnr_db") and record["peer"]["bits_per_weight"] <= NARROW
    ]
    named = []
    for name, rate, decibels in sorted(points, key=lambda point: (point[1], -point[2])):
        best = all(decibels > other for _, fewer, other in points if fewer <= rate and _ != name)
        named.append((name.rpartition(" ")[2] if best else "", rate, decibels))
    return named


def _plot(source: str, records: list[Record], peers: list[tuple[str, float, float]]) -> str:
    methods = _methods(records)
    rates = [rate for points in methods.values() for rate, _ in points]
    ends = (min(rates), max(rates))
    series = [Series("Shannon's bound", [(r, shannon_db(r)) for r in ends], dots=False)]
    series += [Series(name, points, joined=False) for name, points in methods.items()]
    if peers:
        points = [(rate, decibels) for _, rate, decibels in peers]
        names = [name for name, _, _ in peers]
        series.append(Series("other quantizers", points, joined=False, labels=names))
    return lines(
        f"SQNR by bits stored, {source} weights", series, "bits per weight, all included", "dB"
    )


def _gaps(records: list[Record]) -> str:
    series = [
        Series(name, [(r, shannon_db(r) - decibels) for r, decibels in points], joined=False)
        for name, points in _methods(records).items()
    ]
    return lines(
        "Below Shannon's bound, Gaussian weights (lower is better)",
        series,
        "bits per weight, all included",
        "dB below the bound",
    )


def fits(found: Findings, page: Page) -> None:
    """What each step of the fit brings, width by width."""
    rows = []
    for width in (4, 3, 2):
        before = None
        for step, method in STEPS:
            record = found.usual("accuracy", source="llm-like", bits=width, method=method)
            if record is None:
                continue
            ideal = record["sqnr_db"] - shannon_db(record["bits_per_weight"])
            gain = "–" if before is None else f"{ideal - before:+.2f}"
            rate, decibels = f"{record['bits_per_weight']:.3f}", f"{record['sqnr_db']:.2f}"
            rows.append([f"{width} bits", step, rate, decibels, gain])
            before = ideal
    if rows:
        page.add(
            "### The fit, step by step",
            "What each step of the fit brings, on llm-like weights. As the steps store unequal "
            "amounts, the gain is that of the distance to Shannon's bound at the bits stored:",
        )
        page.table(["width", "step", "bits/weight", "SQNR dB", "gain dB"], rows, left=2)
