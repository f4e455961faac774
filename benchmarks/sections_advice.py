"""The report on the profiles, and the advice that follows from the figures by stated rules."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

from benchmarks import accuracy_page
from benchmarks.accuracy import shannon_db
from benchmarks.findings import Findings, Record, peak, rate
from benchmarks.page import NOT_MEASURED, Page, megabytes, number, times

SLACK = 0.25  # bits a weight that a better layout may take beside those of least squares
WORTH = 0.9  # of the best throughput: the least threads that reach it are advised


def profiles(found: Findings, page: Page) -> None:
    """The same models with every profile."""
    page.add("## Profiles")
    records = found.records("profiles")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "What `arrowquant quantize --profile` makes of the small real models of `benchmarks/models`, "
        "a process from start to end. Everything is counted in the bits a weight: embeddings, norms "
        "and protected layers, which weigh more in models this small, and the metadata. Quality is "
        "that of the quantized tensors; what such errors cost the models is in "
        "[accuracy.md](accuracy.md)."
    )
    page.table(
        ["model", "profile", "tensors by width", "bits/weight", "MB in", "MB out", "mean dB",
         "least dB", "mean cosine", "seconds", "CPU s", "peak MB"],
        [_profile(record) for record in records],
        left=3,
    )  # fmt: skip


def _profile(record: Record) -> list[str]:
    counts, totals, quality = record["counts"], record["totals"], record["quality"]
    widths = [f"{n} of {key[5:]} bits" for key, n in counts.items() if key.startswith("bits_")]
    runs = record["processes"]["ours"]
    return [
        record["labels"]["model"],
        f"`{record['labels']['profile']}`",
        ", ".join([*widths, f"{counts['kept']} kept"]),
        f"{totals['bits_per_weight']:.2f}",
        number(totals["source_bytes"] / 1e6),
        number(totals["artifact_bytes"] / 1e6),
        f"{quality['mean_sqnr_db']:.2f}",
        f"{quality['min_sqnr_db']:.2f}",
        f"{quality['mean_cosine']:.5f}",
        number(median(record["seconds"]["ours"])),
        number(median(run["cpu_seconds"] for run in runs)),
        megabytes(peak(runs)),
    ]


def recommendations(found: Findings, page: Page) -> None:
    """Advice, each rule with what it gives; only where its figures are there."""
    page.add("## Recommendations")
    rows = [
        [rule, answer]
        for rule, advise in RULES
        if (answer := "; ".join(advise(found)))
    ]  # fmt: skip
    if not rows:
        page.add(NOT_MEASURED)
        return
    page.add("Each follows from the figures above by the rule beside it.")
    page.table(["rule", "what it gives"], rows, left=2)


def _method(found: Findings) -> list[str]:
    advice = []
    for bits in (4, 3, 2):
        plain = found.usual("accuracy", source="llm-like", method="lsq", bits=bits)
        if plain is None:
            continue
        most = plain["bits_per_weight"] + SLACK
        candidates = [
            record
            for record in found.select("accuracy", source="llm-like", bits=bits)
            if record["bits_per_weight"] <= most and record["labels"]["method"] != "trellis"
        ]
        best = max(candidates, key=lambda record: float(record["sqnr_db"]))
        gain = best["sqnr_db"] - plain["sqnr_db"]
        name = best["name"].partition(": ")[2]
        advice.append(f"{name}, {gain:+.2f} dB over `lsq`")
    return advice


def _use(found: Findings) -> list[str]:
    advice = []
    for model in accuracy_page.MODELS:
        metric = model.metrics[0]
        for bits in (4, 3, 2):
            rows = [
                record
                for record in found.select("end_metrics", model=model.name, bits=bits)
                if record["labels"]["weights"]
                and not record["labels"]["activations"]
                and metric.key in record
            ]
            if rows:
                best = min(rows, key=lambda record: float(record[metric.key]))
                name = best["name"].partition(": ")[2]
                advice.append(f"{model.name}: {name} ({best['bits_per_weight']:.2f} bits)")
    return advice


def _threads(found: Findings) -> list[str]:
    advice = []
    for record in found.select("parallel", bits=4):
        gains = {n: found.scaling(record, "ours", n) for n in record["labels"]["cores"]}
        enough = min(n for n, gain in gains.items() if gain >= WORTH * max(gains.values()))
        few = f"{enough} of {max(gains)}"
        advice.append(f"`{record['labels']['method']}`: {few} ({gains[enough]:.2f} × one)")
    return advice


def _groups(found: Findings) -> list[str]:
    advice = []
    for bits in (4, 2):
        wide, narrow = (
            found.first(
                "accuracy", source="llm-like", method="lsq", bits=bits, group=group, symmetric=False
            )
            for group in (32, 128)
        )
        if wide and narrow:
            cost = wide["bits_per_weight"] - narrow["bits_per_weight"]
            gain = (wide["sqnr_db"] - narrow["sqnr_db"]) / cost
            verdict = "worth it" if gain >= shannon_db(1) else "better spent on wider codes"
            advice.append(f"{bits} bits: {gain:.2f} dB a bit, {verdict}")
    return advice


def _time(found: Findings) -> list[str]:
    advice = []
    for bits in (4, 2):
        plain = found.usual("speed", method="minmax", bits=bits)
        for method in ("lsq", "superblock"):
            better = found.usual("speed", method=method, bits=bits)
            if plain and better:
                gain = better["sqnr_db"] - plain["sqnr_db"]
                cost = times(rate(plain) / rate(better))
                advice.append(f"{bits} bits `{method}`: {gain:+.2f} dB for {cost} the time")
    return advice


def _memory(found: Findings) -> list[str]:
    shares = found.batch_shares()
    return [f"{size}: {share:.0%} of the memory" for size, share in shares if share < 1]


RULES: tuple[tuple[str, Callable[[Findings], list[str]]], ...] = (
    (
        f"By weights alone: the highest SQNR at no more than {SLACK:g} bits a weight beyond `lsq` in "
        "groups of 64, llm-like weights, data-free",
        _method,
    ),
    ("By use: the least loss of the end metric among all rows of a model at a width, weights only", _use),
    ("What a better fit costs: dB over `minmax` and the kernel's time over its", _time),
    (f"Threads: the least that reach {WORTH:.0%} of the best throughput, 4 bits", _threads),
    ("Groups of 32 in place of 128: worth it where a bit spent so brings more than a bit of code, 6.02 dB", _groups),
    ("Stream where it takes less memory than loading it all", _memory),
)  # fmt: skip
