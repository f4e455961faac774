"""The report on quality: layers of a trained model, calibrated fits, and the claims of an earlier report."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median

from benchmarks import claims as claimed
from benchmarks.charts import Series, lines
from benchmarks.findings import Findings, Record
from benchmarks.page import NOT_MEASURED, Page, number, times
from benchmarks.timing import median_ratio


def layers(found: Findings, page: Page) -> None:
    """Layers of a trained model."""
    page.add("## Accuracy layer by layer, on a trained model")
    records = found.select("accuracy", source="layers")
    if not records:
        page.add(NOT_MEASURED)
        return
    tensors = records[0]["layers"]
    page.add(
        f"The {len(tensors)} matrices of a sentence encoder (package "
        f"`{records[0]['labels']['package']}`), groups of 64 and asymmetric where a method has a choice. Error of weights alone "
        "does not say what a model can still do: a method that is better here can be worse in use."
    )
    page.table(
        ["method", "bits/weight", "mean dB", "worst dB", "worst layer", "mean cosine"],
        [_summary(record) for record in records],
    )
    chosen = [record for record in records if record["labels"]["bits"] in (4, 2)]
    series = [
        Series(
            f"{record['labels']['method']} {record['labels']['bits']} bits",
            [(float(n), layer["sqnr_db"]) for n, layer in enumerate(record["layers"], 1)],
        )
        for record in chosen
        if record["labels"]["bits"] == 2
    ]
    page.chart(
        "layers",
        "SQNR of every layer at 2 bits",
        lines("SQNR of every layer at 2 bits, in file order", series, "layer", "dB"),
    )
    page.add("<details><summary>Every layer, 4 and 2 bits</summary>")
    page.table(
        ["tensor", *(f"{r['labels']['method']} {r['labels']['bits']}" for r in chosen)],
        [
            [f"`{layer['tensor']}`", *(f"{r['layers'][n]['sqnr_db']:.2f}" for r in chosen)]
            for n, layer in enumerate(tensors)
        ],
    )
    page.add("</details>")


def _summary(record: Record) -> list[str]:
    entries = record["layers"]
    worst = min(entries, key=lambda layer: layer["sqnr_db"])
    weights = sum(layer["weights"] for layer in entries)
    rate = sum(layer["bits_per_weight"] * layer["weights"] for layer in entries) / weights
    return [
        f"{record['labels']['method']} {record['labels']['bits']} bits",
        f"{rate:.3f}",
        f"{mean(layer['sqnr_db'] for layer in entries):.2f}",
        f"{worst['sqnr_db']:.2f}",
        f"`{worst['tensor']}`",
        f"{mean(layer['cosine'] for layer in entries):.5f}",
    ]


def calibrated(found: Findings, page: Page) -> None:
    """GPTQ, ours and a loop in torch."""
    page.add("## Second moments of the inputs: GPTQ")
    records = found.records("gptq")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "One layer with the second moments of inputs that are correlated. ρ is the error of the layer's "
        "output as a share of the output; seconds are the median, factorizing included. The peer "
        "is a loop over columns in torch at the same setting."
    )
    for record in records:
        seconds = record["seconds"]
        peer = seconds.get("peer")
        page.table(
            [record["name"], "seconds", "faster than the loop in torch", "ρ"],
            [
                [
                    name,
                    number(median(seconds[name])) if seconds.get(name) else "–",
                    times(median_ratio(peer, seconds[name])) if peer and seconds.get(name) else "–",
                    f"{rho:.5f}",
                ]
                for name, rho in record["rho"].items()
            ],
        )


def diffusion_cost(found: Findings, page: Page) -> None:
    """What ranges by time and smoothing add to a job."""
    page.add("## What time-aware and spatial steps cost a job")
    records = found.records("diffusion_cost")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "Whole processes of `arrowquant quantize` with a calibration file, in turn: with `activations` (times cut into "
        "groups, ranges fitted, the table written), with `smoothing` (the best strength of each tensor), and with "
        "both, against the same job without either. Shares are medians of the ratios within a round, of wall "
        "time and of processor time; at most 7 % and 9 % are asked of the first two. `fold` is a command of its own."
    )
    for record in records:
        runs = record["processes"]
        base = runs["calibrated"]
        page.table(
            [record["name"], "seconds", "of the processor", "more time", "more of the processor"],
            [
                [
                    name,
                    number(median(run["seconds"] for run in those)),
                    number(median(run["cpu_seconds"] for run in those)),
                    *(
                        "–" if name in ("calibrated", "fold") else f"{_more(those, base, key):+.1%}"
                        for key in ("seconds", "cpu_seconds")
                    ),
                ]
                for name, those in runs.items()
                if those
            ],
        )


def _more(runs: Sequence[Record], base: Sequence[Record], key: str) -> float:
    return median_ratio([run[key] for run in runs], [run[key] for run in base]) - 1


def claims(found: Findings, page: Page) -> None:
    """The claims of an earlier report, one by one."""
    page.add("## Claims of the earlier report, one by one")
    page.add(
        "An earlier system of this name published a benchmark report. Its own tables call the "
        "figures expected or estimated, no raw result of it exists, and most cannot have been "
        "measured with its code. Its claims, beside what is measured here:"
    )
    page.table(
        ["subject", "claimed", "measured here", "verdict"],
        [list(row) for row in claimed.rows(found)],
        left=4,
    )
