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
# How far each sample is from full precision's: of small errors, where losses are noisy.
PAIRED = {"dit-digits": "perceptual", "dream-glosses": "kl", "dit-speech": "perceptual"}
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
        self.key, self.paired = LOSSES[model], PAIRED[model]
        self.records = records

    def loss(self, record: Record) -> float:
        """How much worse its end metric is than full precision's."""
        return float(record.get(self.key, 0.0))

    def distance(self, record: Record) -> float:
        """How far its samples are from full precision's."""
        return float(record[self.paired])

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
    """Ranges as our tables have them at each time, clipped, against one static range of all that was seen.

    Beside them what clips or follows time alone, and what each token's own range loses.
    """
    for static in rows.where(lambda r: _tabled(r) and _mode(r) == "static" and not _evened(r)):
        found = [r for r in rows.where(partial(_twins, static)) if _tabled(r) and not _evened(r)]
        twins = {_mode(r): r for r in found}
        timed, name = twins.get("time-mse"), static["name"].partition(": ")[2]
        if timed is None:
            continue
        bar = f"ranges by time halve the loss of {name}"
        groups = f"{timed.get('table', {}).get('groups', '?')} groups of time"
        beside = "; ".join(f"{mode} {rows.loss(r):.4g}" for mode, r in twins.items())
        if rows.loss(static) <= rows.doubt(static):
            yield Line(bar, f"nothing measurable is lost: {beside}", True)
        else:
            cut = 1 - rows.loss(timed) / rows.loss(static)
            met = rows.loss(timed) <= rows.loss(static) / 2
            yield Line(bar, f"{cut:.0%} less, {groups}: {beside}", met)


def best_mode(rows: Rows) -> Iterator[Line]:
    """What a recipe gives unless asked is the way to quantize activations that loses least, or as little."""
    for default in rows.where(lambda r: _mode(r) == "as it comes"):
        twins = [r for r in rows.where(partial(_twins, default)) if _tabled(r)]
        best = min((r for r in twins if not _evened(r)), key=rows.loss)
        gap = rows.loss(default) - rows.loss(best)
        doubt = (rows.doubt(default) ** 2 + rows.doubt(best) ** 2) ** 0.5
        chosen = default.get("table", {}).get("mode", "?")
        name = default["name"].partition(": ")[2]
        said = f"{chosen}, {rows.loss(default):.4g}; best: {_mode(best)}, {rows.loss(best):.4g}"
        yield Line(f"the default of activations is the best mode: {name}", said, gap <= doubt)


def smoothing(rows: Rows) -> Iterator[Line]:
    """Ranges moved into the weights, where plain groups are damaged: the best aggregate of each mode."""
    plain = rows.where(lambda r: _tabled(r) and not _evened(r))
    for record in plain:
        twins = rows.where(partial(_same_but_evened, record))
        if not twins or rows.loss(record) <= rows.doubt(record):
            continue
        best = min(twins, key=rows.loss)
        cut = 1 - rows.loss(best) / rows.loss(record)
        name = record["name"].partition(": ")[2]
        how = best["name"].rpartition("table ")[2].removeprefix(f"{_mode(record)} ")
        said = f"{rows.loss(record):.4g} → {rows.loss(best):.4g} ({how}): {cut:.0%} less"
        yield Line(f"smoothing cuts the loss of {name} by 47 %", said, cut >= 0.47)


def like_q_dit(rows: Rows) -> Iterator[Line]:
    """Ours against groups, GPTQ and activations as they come, at as many bits.

    Ours is the row that is nearest to full precision, sample by sample: to choose it by the loss would be to choose
    by noise, where that is larger than what methods differ by. It must be nearer than theirs, and lose no more than
    two standard errors allow; at 2 bits it must be clearly nearer.
    """
    theirs = rows.where(lambda r: "Q-DiT-like" in r["name"] or _method(r) == "gptq")
    for other in theirs:
        able = [r for r in rows.where(partial(_within, other)) if rows.paired in r]
        bar = f"as good as {other['name'].partition(': ')[2]}"
        if not able or rows.paired not in other:
            yield Line(bar, rows.said(other), None)
            continue
        ours = min(able, key=rows.distance)
        worse = rows.loss(ours) - rows.loss(other)
        doubt = (rows.doubt(ours) ** 2 + rows.doubt(other) ** 2) ** 0.5
        nearer = rows.distance(other) - rows.distance(ours)
        least = 2 * _joint(rows, ours, other) if _of(other, 2) else 0.0
        told = (
            f"{rows.said(ours)}, {rows.paired} {rows.distance(ours):.4g}; theirs "
            f"{rows.loss(other):.4g} ± {rows.doubt(other) / 2:.2g}, {rows.distance(other):.4g}; "
            f"step by step {_steps(rows, able)}"
        )
        yield Line(bar, told, worse <= doubt and nearer > least)


def _joint(rows: Rows, one: Record, two: Record) -> float:
    """Standard error of the difference of their distances."""
    errors = [float(r.get(f"{rows.paired}_se", 0.0)) for r in (one, two)]
    return float((errors[0] ** 2 + errors[1] ** 2) ** 0.5)


def _steps(rows: Rows, able: Sequence[Record]) -> str:
    """Distances of all of ours that were eligible, from the farthest to the nearest."""
    falling = sorted(able, key=rows.distance, reverse=True)
    return "; ".join(
        f"{r['name'].partition(': ')[2].partition('ours ')[2] or r['name'].partition(': ')[2]} "
        f"{rows.distance(r):.4g}"
        for r in falling
    )


def usable(rows: Rows) -> Iterator[Line]:
    """Few bits near full precision: NLL within 10 %, class accuracy within two points."""
    full = next((r for r in rows.records if not r["labels"]["weights"]), None)
    for kind, most in (("data-free", 3.0), ("calibrated", 2.75)):
        bar = f"usable at ≤ {most} bits, {kind}"
        best = rows.least(partial(_small, most, kind == "calibrated"))
        if best is None or full is None:
            yield Line(bar, "", None)
        else:
            yield Line(bar, *_near(rows, full, best))


def budgets(rows: Rows) -> Iterator[Line]:
    """The same of jobs that were given a budget, by all that the artifact takes, for each parameter."""
    full = next((r for r in rows.records if not r["labels"]["weights"]), None)
    for kind, most in (("data-free", 3.0), ("calibrated", 2.75)):
        bar = f"a job with a budget is usable at ≤ {most} bits, {kind}"
        best = rows.least(partial(_budgeted, most, kind == "calibrated"))
        if best is None or full is None:
            yield Line(bar, "", None)
            continue
        said, met = _near(rows, full, best)
        yield Line(bar, f"{best['bits_on_disk']:.2f} bits on disk, {said}", met)


def _near(rows: Rows, full: Record, record: Record) -> tuple[str, bool]:
    """How far from full precision, and whether that is usable."""
    if "nll" in full:
        ratio = record["nll"] / full["nll"]
        return f"{rows.said(record)}: NLL {ratio - 1:+.1%}", ratio <= 1.1
    points = 100 * (record["accuracy"] - full["accuracy"])
    return f"{rows.said(record)}: accuracy {points:+.1f} points", points >= -2


BARS = (cosines, groups_of_time, best_mode, smoothing, like_q_dit, usable, budgets)


def _weights_only(record: Record) -> bool:
    return bool(record["labels"]["weights"]) and not record["labels"]["activations"]


def _of(record: Record, bits: int) -> bool:
    return bool(record["labels"]["bits"] == bits)


def _acts(record: Record) -> int:
    return int((record["labels"]["activations"] or {"bits": 16})["bits"])


def _mode(record: Record) -> str | None:
    return (record["labels"]["activations"] or {}).get("mode")


def _tabled(record: Record) -> bool:
    """Whether activations are quantized as an artifact of ours says."""
    return "table" in (record["labels"]["activations"] or {})


def _evened(record: Record) -> bool:
    """Whether channels are evened out, in the weights or by folding."""
    acts = record["labels"]["activations"] or {}
    return "smoothing" in acts or "fold" in acts


def _same_but_evened(plain: Record, record: Record) -> bool:
    same = _twins(plain, record) and _mode(plain) == _mode(record)
    return same and _tabled(record) and _evened(record)


def _budgeted(most: float, calibrated: bool, record: Record) -> bool:
    """By a budget alone, the whole artifact within so many bits a parameter."""
    weights = record["labels"]["weights"] or {}
    given = "budget" in weights.get("recipe", {}) and not record["labels"]["activations"]
    return given and record["bits_on_disk"] <= most and calibrated == _is_calibrated(record)


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
    """Whether two rows differ by how their activations are quantized or evened out alone."""
    one, two = record["labels"], other["labels"]
    return (
        one["weights"] == two["weights"]
        and _acts(record) == _acts(other)
        and _mode(record) is not None
    )
