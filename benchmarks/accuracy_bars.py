"""What an earlier report claimed and what we ask of ourselves instead, decided by the records of `end_metrics`.

The loss of a row is what its model's first metric has become worse by: added Fréchet distance, or added
negative log-likelihood. A loss is measurable when it is more than two standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from benchmarks.findings import Record
from benchmarks.page import Page

PASSED, MISSED, UNKNOWN = "met", "**not met**", "not measured yet"
LOSSES = {
    "dit-digits": "frechet_added",
    "dream-glosses": "nll_added",
    "dit-speech": "frechet_added",
}
COSINES = ((2, 2.75, 0.95), (4, 16.0, 0.997), (8, 16.0, 0.99998))


@dataclass(frozen=True)
class Line:
    """A bar on a model: what was measured and whether it is met; None: nothing to decide it by."""

    bar: str
    measured: str
    met: bool | None


class Rows:
    """The records of one model."""

    def __init__(self, model: str, records: Sequence[Record]) -> None:
        self.key = LOSSES[model]
        self.records = records

    def loss(self, record: Record) -> float:
        """How much worse its end metric is than full precision's."""
        return float(record.get(self.key, 0.0))

    def doubt(self, record: Record) -> float:
        """Two standard errors of it."""
        return 2 * float(record.get(f"{self.key}_se", 0.0))

    def said(self, record: Record) -> str:
        """Name, rate and loss."""
        name = record["name"].partition(": ")[2]
        rate = f" at {record['bits_per_weight']:.2f} bits" if record["labels"]["weights"] else ""
        return f"{name}{rate}: {self.loss(record):.4g} ± {self.doubt(record) / 2:.2g}"

    def where(self, wanted: Callable[[Record], bool]) -> list[Record]:
        """Records with something to lose by."""
        return [r for r in self.records if self.key in r and wanted(r)]

    def least(self, wanted: Callable[[Record], bool]) -> Record | None:
        """The one that loses least."""
        return min(self.where(wanted), key=self.loss, default=None)


def table(page: Page, model: str, records: Sequence[Record]) -> None:
    """Every bar, on one model."""
    rows = Rows(model, records)
    found = [line for bar in BARS for line in bar(rows)]
    verdicts = {True: PASSED, False: MISSED, None: UNKNOWN}
    page.table(
        ["bar", "measured", "verdict"],
        [[line.bar, line.measured, verdicts[line.met]] for line in found],
        left=3,
    )


def cosines(rows: Rows) -> Iterator[Line]:
    """Weight cosines at 2, 4 and 8 bits."""
    for bits, most, least in COSINES:
        bar = f"weight cosine ≥ {least} at {bits} bits" + (
            f", ≤ {most} stored" if most < 16 else ""
        )
        best = max(
            (r for r in rows.where(_weights_only) if _of(r, bits) and r["bits_per_weight"] <= most),
            key=lambda r: float(r["cosine"]),
            default=None,
        )
        if best is None:
            yield Line(bar, "", None)
        else:
            yield Line(bar, f"{best['cosine']:.5f}: {rows.said(best)}", best["cosine"] >= least)


def groups_of_time(rows: Rows) -> Iterator[Line]:
    """Ranges by groups of time against one static range."""
    for static in rows.where(lambda r: _mode(r) == "static" and not _smooth(r)):
        twins = {_mode(r): r for r in rows.where(partial(_twins, static))}
        timed, name = twins.get("time"), static["name"].partition(": ")[2]
        if timed is None:
            continue
        bar = f"time groups halve the loss of {name}"
        beside = "; ".join(f"{mode} {rows.loss(r):.4g}" for mode, r in twins.items())
        if rows.loss(static) <= rows.doubt(static):
            yield Line(bar, f"nothing measurable is lost: {beside}", True)
        else:
            yield Line(bar, beside, rows.loss(timed) <= rows.loss(static) / 2)


def smoothing(rows: Rows) -> Iterator[Line]:
    """Ranges moved into the weights, where plain groups are damaged."""
    for record in rows.where(lambda r: bool(_smooth(r))):
        name = record["name"].partition(": ")[2]
        plain = next((r for r in rows.records if record["name"] == f"{r['name']} smoothed"), None)
        if plain is None or rows.loss(plain) <= rows.doubt(plain):
            continue
        cut = 1 - rows.loss(record) / rows.loss(plain)
        said = f"{rows.loss(plain):.4g} → {rows.loss(record):.4g}: {cut:.0%} less"
        yield Line(f"smoothing cuts the loss of {name[:-9]} by 47 %", said, cut >= 0.47)


def like_q_dit(rows: Rows) -> Iterator[Line]:
    """Ours against groups, GPTQ and activations as they come, at as many bits."""
    theirs = rows.where(lambda r: "Q-DiT-like" in r["name"] or _method(r) == "gptq")
    for other in theirs:
        ours = rows.least(partial(_within, other))
        bar = f"as good as {other['name'].partition(': ')[2]}"
        if ours is None:
            yield Line(bar, rows.said(other), None)
            continue
        gap = rows.loss(ours) - rows.loss(other)
        margin = 0.0 if _of(other, 2) else (rows.doubt(ours) ** 2 + rows.doubt(other) ** 2) ** 0.5
        yield Line(bar, f"{rows.said(ours)}; theirs {rows.loss(other):.4g}", gap <= margin)


def usable(rows: Rows) -> Iterator[Line]:
    """Few bits near full precision: NLL within 10 %, class accuracy within two points."""
    full = next((r for r in rows.records if not r["labels"]["weights"]), None)
    for kind, most in (("data-free", 3.0), ("calibrated", 2.75)):
        bar = f"usable at ≤ {most} bits, {kind}"
        best = rows.least(partial(_small, most, kind == "calibrated"))
        if best is None or full is None:
            yield Line(bar, "", None)
        elif "nll" in full:
            ratio = best["nll"] / full["nll"]
            yield Line(bar, f"{rows.said(best)}: NLL {ratio - 1:+.1%}", ratio <= 1.1)
        else:
            points = 100 * (best["accuracy"] - full["accuracy"])
            yield Line(bar, f"{rows.said(best)}: accuracy {points:+.1f} points", points >= -2)


BARS = (cosines, groups_of_time, smoothing, like_q_dit, usable)


def _weights_only(record: Record) -> bool:
    return bool(record["labels"]["weights"]) and not record["labels"]["activations"]


def _of(record: Record, bits: int) -> bool:
    return bool(record["labels"]["bits"] == bits)


def _acts(record: Record) -> int:
    return int((record["labels"]["activations"] or {"bits": 16})["bits"])


def _mode(record: Record) -> str | None:
    return (record["labels"]["activations"] or {}).get("mode")


def _smooth(record: Record) -> float:
    return float((record["labels"]["activations"] or {}).get("smooth", 0.0))


def _method(record: Record) -> str | None:
    return (record["labels"]["weights"] or {}).get("method")


def _ours(record: Record) -> bool:
    return (record["labels"]["weights"] or {}).get("by") in ("ours", "product")


def _is_calibrated(record: Record) -> bool:
    return "calibrated" in (record["labels"]["weights"] or {})


def _within(other: Record, record: Record) -> bool:
    """Ours, of the same widths, storing no more bits than another's."""
    few = record["bits_per_weight"] <= other["bits_per_weight"] + 1e-6
    widths = record["labels"]["bits"] == other["labels"]["bits"] and _acts(record) == _acts(other)
    return few and widths and _ours(record)


def _small(most: float, calibrated: bool, record: Record) -> bool:
    few = record["bits_per_weight"] <= most
    return few and _weights_only(record) and _ours(record) and calibrated == _is_calibrated(record)


def _twins(other: Record, record: Record) -> bool:
    """Whether two rows differ by the mode of their activations alone."""
    one, two = record["labels"], other["labels"]
    return (
        one["weights"] == two["weights"]
        and _acts(record) == _acts(other)
        and _smooth(record) == _smooth(other)
        and _mode(record) is not None
    )
