"""docs/accuracy.md and its charts, from the raw results of `end_metrics` alone: `python -m benchmarks.accuracy_page`

No number is typed: tables, winners and verdicts are computed from the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import accuracy_bars
from benchmarks.charts import Series, lines
from benchmarks.findings import Findings, Record
from benchmarks.page import NOT_MEASURED, Page
from benchmarks.results import FOLDER, load_all

TARGET = Path(__file__).parents[1] / "docs" / "accuracy.md"
CHARTS = TARGET.with_name("accuracy")
COLOURS = 6
# The families that a chart has room for, first those to be seen.
DRAWN = (
    "ours trellis κ=1",
    "ours superblock κ=1 gptq",
    "ours superblock κ=1 calibrated",
    "ours superblock κ=1",
    "gptq",
    "hqq",
    "ours lsq κ=1",
    "ours minmax",
)
BENCHMARK = "end_metrics"


@dataclass(frozen=True)
class Metric:
    """A column: the record's key, what it is called, its digits, and whether more is better."""

    key: str
    name: str
    digits: int
    higher: bool = False

    def cell(self, record: Record) -> str:
        """The value with its standard error."""
        value = record.get(self.key)
        if value is None:
            return "–"
        error = record.get(f"{self.key}_se")
        text = f"{value:z.{self.digits}f}"
        return text if error is None else f"{text} ± {error:.{self.digits}f}"


@dataclass(frozen=True)
class Model:
    """How a model is reported. The first metric decides; the last is paired by sample, and finer."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    data: str


ACCURACY = Metric("accuracy", "class accuracy", 3, higher=True)
ADDED = Metric("frechet_added", "added Fréchet", 2)
FRECHET = Metric("frechet", "Fréchet distance", 2)
PSNR = Metric("psnr_db", "PSNR dB", 1, higher=True)
PERCEPTUAL = Metric("perceptual", "perceptual distance", 4)
OUTPUT = Metric("output_error", "output error", 5)
MODELS = (
    Model(
        "dit-digits",
        "Image: a diffusion transformer on digits",
        (ADDED, FRECHET, ACCURACY, PSNR, OUTPUT, PERCEPTUAL),
        "10,000 handwritten digits of MNIST (MIT licence), 2,000 of them held out",
    ),
    Model(
        "dream-glosses",
        "Text: a masked-diffusion language model on dictionary glosses",
        (
            Metric("nll_added", "added NLL, nats a token", 4),
            Metric("nll", "NLL bound", 3),
            Metric("flips", "flip rate", 4),
            Metric("kl", "KL, nats", 4),
        ),
        "the glosses of WordNet 3.0 (its licence: any use, with its notice), 3 % of them held out",
    ),
    Model(
        "dit-speech",
        "Audio: a diffusion transformer on log-mel spectrograms of speech",
        (
            ADDED,
            FRECHET,
            ACCURACY,
            Metric("log_mel_db", "log-mel distance dB", 3),
            OUTPUT,
            PERCEPTUAL,
        ),
        "25 minutes of telephone prompts in one voice (CC-BY-SA-3.0, and so are these weights), "
        "15 % of the prompts held out",
    ),
)


def generate(results: Path = FOLDER) -> dict[str, str]:
    """The page and its charts by file name, all text."""
    found = Findings(load_all(results))
    page = Page()
    page.add(
        "# What the bits cost real diffusion models",
        "Written by `make report` from `benchmarks/results/end_metrics.json`; measured by "
        "`python -m benchmarks.end_metrics`. Weight error alone misleads, so methods are judged here "
        "by what their users see: samples drawn from the same noise, distances to held-out real "
        "data, and likelihoods, on three small models that `benchmarks/models` trains on real data. "
        "Every linear layer is quantized at the width said (embeddings, norms and biases stay), and "
        "bits a weight count everything stored for them. `±` is a standard error: over samples, of "
        "Fréchet distances by bootstrap. `ours` are whole jobs of this product read back from "
        "their artifacts; `rtn`, `hqq` and `gptq` are plain implementations of the papers in "
        "`benchmarks/models/reference.py`, and only `gptq` sees calibration data among them. "
        "κ is the recipe's `unbias`.",
        "Activations: `static` and `per-token` alone are plain rules in torch. `table` rows ask the "
        "`activations.arrow` of the job for every layer at every step, as a deployment does: `static` is one "
        "min-max range, `time` min-max ranges by groups of time, `-mse` the same clipped to least squared error, "
        "`per-token` each token's own range, and `as it comes` what a recipe that says nothing gets. Times are cut "
        "where that saves error, so a model whose activations do not change with time gets one group. "
        "`smoothed` rows store factors beside the codes, `folded` ones run `arrowquant fold` and are captured again; "
        "both choose the strength layer by layer, from ranges that are the `max`, the `mean` or the `salience` of those "
        "of the time bins. `budget` rows are jobs that were given bits a weight, everything counted, and chose widths "
        "themselves, or took the least that their gates allow; the bits shown are of linear layers, or of all parameters, "
        "without the framing and the report, which the budget counts and which weigh much in models this small.",
    )
    _strengths(found, page)
    for model in MODELS:
        _model(found, page, model)
    return {TARGET.name: page.text(), **page.charts}


def _strengths(found: Findings, page: Page) -> None:
    """What κ does, alone and with each other step, on every model."""
    settings: dict[str, dict[str, str]] = {}
    for model in MODELS:
        metric = model.metrics[0]
        measured = {
            r["name"].partition(": ")[2]: r for r in found.select(BENCHMARK, model=model.name)
        }
        for name, plain in measured.items():
            unbiased = measured.get(name.replace("κ=0 ", "κ=1 "))
            if "κ=0 " in name and unbiased is not None:
                gap = unbiased[metric.key] - plain[metric.key]
                known = abs(gap) > _doubt(metric, plain, unbiased)
                verdict = ("better" if gap < 0 else "worse") if known else "no clear difference"
                cell = f"{plain[metric.key]:z.3g} → {unbiased[metric.key]:z.3g} ({verdict})"
                settings.setdefault(name.replace("κ=0 ", ""), {})[model.name] = cell
    if not settings:
        return
    page.add(
        "## The unbiased fit",
        "The loss without and with κ = 1, alone and with each other step; clear is what two standard "
        "errors tell apart.",
    )
    head = ["weights", *(f"{m.title.partition(':')[0]}: {m.metrics[0].name}" for m in MODELS)]
    page.table(
        head,
        [[name, *(cells.get(m.name, "–") for m in MODELS)] for name, cells in settings.items()],
    )


def _model(found: Findings, page: Page, model: Model) -> None:
    page.add(f"## {model.title}")
    records = [r for r in found.select(BENCHMARK, model=model.name) if "family" in r["labels"]]
    training = found.first(BENCHMARK, model=model.name, source="training")
    if training is not None:
        page.add(_trained(model, training))
    if len(records) < 2:
        page.add(NOT_MEASURED)
        return
    page.add(_measured(records))
    weights = [r for r in records if not r["labels"]["activations"]]
    page.add("### Weights only")
    _table(page, model, weights)
    quantized = [r for r in weights if r["labels"]["weights"]]
    if quantized:
        _chart(page, model, quantized)
        _budgets(page, model, quantized)
        page.add(_front(model, quantized))
    acts = [r for r in records if r["labels"]["activations"]]
    if acts:
        page.add("### Weights and activations")
        _table(page, model, acts)
    page.add(
        f"### The best of each width, by {model.metrics[0].name} and by {model.metrics[-1].name}",
        "The first says what is lost against real data, and may be no more than noise, or negative, "
        "where little is lost. The second says how far each sample is from full precision's.",
    )
    for metric in (model.metrics[0], model.metrics[-1]):
        _winners(page, metric, records)
    page.add(
        "### What was claimed, and what we ask instead",
        f"A loss is the {model.metrics[0].name} of a row; the bars are of `benchmarks/accuracy_bars.py`.",
    )
    accuracy_bars.table(page, model.name, records)


def _trained(model: Model, log: Record) -> str:
    return (
        f"`benchmarks/models/weights/{model.name}`: {log['parameters']:,} parameters, trained on "
        f"{model.data}, in {log['steps']:,} steps: {log['cpu_s']:.0f} s of one core. The log is "
        "beside the weights."
    )


def _measured(records: Sequence[Record]) -> str:
    counts = sorted({record["samples"] for record in records})
    first = records[0]
    parts = ", ".join(f"{n:,}" for n in counts)
    quality = ""
    if "nll_by_ratio" in first:
        steps = ", ".join(f"{value:.2f}" for value in first["nll_by_ratio"])
        quality = f" Full precision, by eighths of the mask ratio: {steps} nats a masked token."
    return f"{parts} samples a row.{quality}"


def _table(page: Page, model: Model, records: Sequence[Record]) -> None:
    head = ["weights and activations", "bits/weight", "cosine", *(m.name for m in model.metrics)]
    rows = []
    for record in records:
        cosine = record.get("cosine")
        rows.append(
            [
                record["name"].partition(": ")[2],
                f"{record['bits_per_weight']:.3f}",
                "–" if cosine is None else f"{cosine:.5f}",
                *(metric.cell(record) for metric in model.metrics),
            ]
        )
    page.table(head, rows)


def _chart(page: Page, model: Model, records: Sequence[Record]) -> None:
    metric = model.metrics[0]
    families: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if record["labels"]["bits"] <= 4 and metric.key in record:
            point = record["bits_per_weight"], max(0.0, record[metric.key])
            families.setdefault(record["labels"]["family"], []).append(point)
    front = [(r["bits_per_weight"], max(0.0, r[metric.key])) for r in pareto(metric, records)]
    known = {name: number for number, name in enumerate(DRAWN)}
    order = sorted(families.items(), key=lambda item: (known.get(item[0], len(known)), item[0]))
    chosen = order[: COLOURS - 1]
    series = [Series(name, sorted(points), joined=False) for name, points in chosen]
    series.append(Series("Pareto front", [p for p in front if p[0] < 5], dots=False))
    name = f"{model.name}.svg"
    page.charts[name] = lines(
        f"{model.title.partition(':')[0]}: {metric.name} by bits a weight",
        series,
        "bits a weight, all counted",
        metric.name,
    )
    page.add(f"![{metric.name} against bits a weight]({CHARTS.name}/{name})")


def _budgets(page: Page, model: Model, records: Sequence[Record]) -> None:
    """The curve of jobs that were given so many bits, over all that their artifacts take."""
    metric = model.metrics[0]
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        if not record["labels"]["bits"] and metric.key in record:
            point = record["bits_on_disk"], max(0.0, record[metric.key])
            curves.setdefault(record["labels"]["family"], []).append(point)
    if not curves:
        return
    name = f"{model.name}-budgets.svg"
    page.charts[name] = lines(
        f"{model.title.partition(':')[0]}: {metric.name} by budget",
        [Series(family, sorted(curves[family])) for family in sorted(curves)],
        "bits a parameter, without framing and report",
        metric.name,
    )
    page.add(f"![{metric.name} of jobs with a budget]({CHARTS.name}/{name})")


def pareto(metric: Metric, records: Sequence[Record]) -> list[Record]:
    """The rows that no row of as few bits beats, by bits a weight."""
    best: list[Record] = []
    sign = -1 if metric.higher else 1
    ordered = [r for r in records if metric.key in r]
    ordered.sort(key=lambda r: (r["bits_per_weight"], sign * r[metric.key]))
    for record in ordered:
        if not best or sign * record[metric.key] < sign * best[-1][metric.key]:
            best.append(record)
    return best


def _front(model: Model, records: Sequence[Record]) -> str:
    front = pareto(model.metrics[0], records)
    names = "; ".join(
        f"{r['name'].partition(': ')[2]} ({r['bits_per_weight']:.2f} bits)" for r in front
    )
    ours = sum(_is_ours(record) for record in front)
    return f"The front, from few bits to many: {names}. {ours} of {len(front)} are ours."


def _winners(page: Page, metric: Metric, records: Sequence[Record]) -> None:
    """For each width the best by a metric, and those it cannot be told from."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if metric.key in record and (
            record["labels"]["weights"] or record["labels"]["activations"]
        ):
            groups.setdefault(_width(record), []).append(record)
    rows = []
    for width, members in groups.items():
        free = [r for r in members if not _calibrated(r)]
        for kind, chosen in (("data-free", free), ("any", members)):
            if not chosen:
                continue
            best = min(chosen, key=lambda r: -r[metric.key] if metric.higher else r[metric.key])
            near = [
                r["name"].partition(": ")[2]
                for r in chosen
                if r is not best and abs(r[metric.key] - best[metric.key]) < _doubt(metric, best, r)
            ]
            rows.append(
                [
                    width,
                    kind,
                    best["name"].partition(": ")[2],
                    f"{best['bits_per_weight']:.2f}",
                    metric.cell(best),
                    str(len(near)),
                ]
            )
    head = ["width", "among", "best", "bits/weight", metric.name, "others within two errors"]
    page.table(head, rows, left=3)


def _doubt(metric: Metric, one: Record, other: Record) -> float:
    key = f"{metric.key}_se"
    return 2 * float((one.get(key, 0.0) ** 2 + other.get(key, 0.0) ** 2) ** 0.5)


def _width(record: Record) -> str:
    acts = record["labels"]["activations"]
    weights = f"W{bits}" if (bits := record["labels"]["bits"]) else "budget"
    return f"{weights} A{acts['bits'] if acts else 16}"


def _is_ours(record: Record) -> bool:
    return (record["labels"]["weights"] or {}).get("by") in ("ours", "product")


def _calibrated(record: Record) -> bool:
    weights, acts = record["labels"]["weights"] or {}, record["labels"]["activations"]
    known = weights.get("method") == "gptq" or bool(weights.get("calibrated"))
    return known or bool(acts and acts["mode"] != "per-token")


def main() -> None:
    """Write the page; remove charts that are no longer drawn."""
    CHARTS.mkdir(parents=True, exist_ok=True)
    files = generate()
    for old in CHARTS.glob("*.svg"):
        if old.name not in files:
            old.unlink()
    for name, text in files.items():
        path = CHARTS / name if name.endswith(".svg") else TARGET.with_name(name)
        path.write_text(text)
        print(path)


if __name__ == "__main__":
    main()
