"""The report on quality: dB per bit, layers of a trained model, and the claims of an earlier report."""

from __future__ import annotations

from statistics import mean

from benchmarks import claims as claimed
from benchmarks.accuracy import shannon_db
from benchmarks.charts import Series, lines
from benchmarks.findings import Findings, Record
from benchmarks.page import NOT_MEASURED, Page


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
        "of a Gaussian of the same energy is a guide only: channels of unequal gain allow more."
    )
    for source in ("gaussian", "llm-like"):
        chosen = found.select("accuracy", source=source)
        page.add(f"### {'Independent Gaussian' if source == 'gaussian' else 'llm-like'} weights")
        page.table(
            ["method", "bits/weight", "SQNR dB", "cosine", "bound dB", "gap dB"],
            [_row(record) for record in chosen],
        )
        page.chart(
            f"shannon-{source}",
            f"SQNR against bits a weight, {source} weights",
            _plot(source, chosen),
        )
    page.chart(
        "gap",
        "Distance to Shannon's bound by bits a weight, Gaussian weights",
        _gaps(records),
    )


def _row(record: Record) -> list[str]:
    bound = shannon_db(record["bits_per_weight"])
    return [
        record["name"].partition(": ")[2],
        f"{record['bits_per_weight']:.3f}",
        f"{record['sqnr_db']:.2f}",
        f"{record['cosine']:.5f}",
        f"{bound:.2f}",
        f"{bound - record['sqnr_db']:.2f}",
    ]


def _plot(source: str, records: list[Record]) -> str:
    rates = [record["bits_per_weight"] for record in records]
    ends = (min(rates), max(rates))
    series = [Series("Shannon's bound", [(r, shannon_db(r)) for r in ends], dots=False)]
    for method in dict.fromkeys(record["labels"]["method"] for record in records):
        for symmetric in (False, True):
            chosen = [
                (record["bits_per_weight"], record["sqnr_db"])
                for record in records
                if record["labels"]["method"] == method
                and record["labels"]["symmetric"] == symmetric
            ]
            name = f"{method}, {'symmetric' if symmetric else 'asymmetric'}"
            if chosen:
                series.append(Series(name, sorted(chosen), joined=False))
    return lines(
        f"SQNR by bits stored, {source} weights", series, "bits per weight, all included", "dB"
    )


def _gaps(records: list[Record]) -> str:
    """One curve for each method and width, over its group sizes; asymmetric."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        labels = record["labels"]
        if labels["symmetric"] or labels["bits"] == 3:
            continue
        name = f"{labels['method']} {labels['bits']} bits"
        rate = record["bits_per_weight"]
        curves.setdefault(name, []).append((rate, shannon_db(rate) - record["sqnr_db"]))
    return lines(
        "Below Shannon's bound, Gaussian weights, asymmetric (lower is better)",
        [Series(name, sorted(points)) for name, points in curves.items()],
        "bits per weight, all included",
        "dB below the bound",
    )


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
        f"`{records[0]['labels']['package']}`), groups of 64, asymmetric. Error of weights alone "
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
    ]
    page.chart(
        "layers",
        "SQNR of every layer",
        lines("SQNR of every layer, in file order", series, "layer", "dB"),
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
