"""The report on the kernels: speed, vector instructions, threads, peers, and what each step brought."""

from __future__ import annotations

from statistics import median

from benchmarks.charts import Bar, Series, bars, lines
from benchmarks.findings import Findings, Record, peer_ratio, rate, roofline, usual
from benchmarks.page import NOT_MEASURED, Page, number, percent, times
from benchmarks.timing import median_ratio

COMPARED = {"ours", "move"}  # contestants that are not ours with a part switched off
# Shares of the traffic loop that we hold ourselves to, by group size.
BARS = {32: 0.65, 64: 0.75, 128: 0.75}


def speed(found: Findings, page: Page) -> None:
    """Every setting against the machine's bandwidth."""
    page.add("## Quantization speed")
    records = found.records("speed")
    if not records:
        page.add(NOT_MEASURED)
        return
    first = records[0]
    page.add(
        f"A BF16 matrix of {first['weights'] / 1e6:.0f} million weights "
        f"({first['read_bytes'] / 1e6:.0f} MB). "
        "“Of the traffic loop” is our speed as a share of that of a compiled loop that reads and "
        "writes as many bytes on the same threads and does nothing else; both write to memory that "
        "is there already, where a method can. SQNR is that of the same run."
    )
    rows = []
    for record in records:
        labels = record["labels"]
        share = roofline(record)
        bar = BARS[labels["group"]] if labels["method"] == "minmax" else None
        rows.append(
            [
                record["name"],
                number(rate(record) / 1e6),
                number(max(record["weights"] / s for s in record["seconds"]["ours"]) / 1e6),
                percent(share),
                "–" if bar is None else f"{percent(bar)} {'met' if share >= bar else 'missed'}",
                f"{record['bits_per_weight']:.3f}",
                f"{record['sqnr_db']:.2f}",
            ]
        )
    page.table(
        ["method", "Mweights/s", "best", "of the traffic loop", "bar", "bits/weight", "SQNR dB"],
        rows,
    )
    shown = [r for r in records if usual(r)]
    page.chart(
        "speed",
        "Million weights per second by method and width",
        bars(
            "Throughput at the usual setting of each width",
            [_bar(record, _methods(shown)) for record in shown],
            "million weights per second, median",
            legend=_methods(shown),
        ),
    )


def _methods(records: list[Record]) -> list[str]:
    return list(dict.fromkeys(record["labels"]["method"] for record in records))


def _bar(record: Record, methods: list[str]) -> Bar:
    value = rate(record) / 1e6
    name = f"{record['labels']['method']} {record['labels']['bits']} bits"
    return Bar(name, value, number(value), methods.index(record["labels"]["method"]))


def simd(found: Findings, page: Page) -> None:
    """Variants of the compiler's settings."""
    page.add("## Vector instructions")
    records = found.records("simd")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "One thread on a matrix that bandwidth does not limit. Each variant is the same source in "
        "a process of its own, compiled under other settings; the inner loops of the kernels are "
        "written in explicit vectors of eight, which no setting turns off, so the scalar one is a "
        "plain loop over each group, compiled with the vectorizers off. The plain loop starts from "
        "float32 and measures no errors; the kernels widen from BF16 and return exact error sums."
    )
    variants = list(dict.fromkeys(name for record in records for name in record["seconds"]))
    rows = []
    for record in records:
        cells = []
        for name in variants:
            runs = record["seconds"].get(name)
            cells.append("–" if not runs else number(record["weights"] / median(runs) / 1e6))
        rows.append([f"{record['labels']['method']} {record['labels']['bits']} bits", *cells])
    page.table(["Mweights/s", *variants], rows)
    gains = []
    for record in records:
        for name, runs in record["seconds"].items():
            if name != "ours" and runs:
                gain = found.vector_gain(record["labels"]["method"], record["labels"]["bits"], name)
                label = f"{record['labels']['method']} {record['labels']['bits']} / {name}"
                if gain:
                    gains.append(Bar(label, gain, times(gain), variants.index(name) - 1))
    page.chart(
        "simd",
        "Our kernels against variants of the compiler's settings",
        bars("Ours over each variant", gains, "times as fast, median of the rounds"),
    )


def profile(found: Findings, page: Page) -> None:
    """Instructions per weight, phase by phase."""
    page.add("## Where the instructions go")
    records = found.records("loops")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "Instructions per weight in the innermost loops, counted in the compiler's assembly for "
        "x86-64 with AVX2, whatever the machine: the same on every run. `minmax` goes through the "
        "first three phases and packing; `lsq` also through several candidates and two errors. "
        "Tests hold every one to a bound."
    )
    page.table(
        ["phase", "function", "instructions per weight", "on 256-bit registers", "in the loop"],
        [
            [
                record["name"],
                f"`{record['labels']['function']}`",
                f"{record['instructions_per_weight']:.2f}",
                str(record["loop"]["wide"]),
                str(record["loop"]["instructions"]),
            ]
            for record in records
        ],
        left=2,
    )


def parallel(found: Findings, page: Page) -> None:
    """Threads."""
    page.add("## Parallel scaling")
    records = found.records("parallel")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "Throughput at each number of threads over that at one. The last three columns are the "
        "machine's own limits in the same rounds: multiply-and-add without memory, a plain copy, "
        "and the traffic loop of the section on speed."
    )
    rows = []
    for record in records:
        for threads in record["labels"]["cores"]:
            gains = [
                found.scaling(record, name, threads)
                for name in ("ours", "multiply-add", "copy", "traffic")
            ]
            speed_now = number(rate(record, f"ours {threads}") / 1e6)
            rows.append(
                [record["name"], str(threads), speed_now, *(f"{gain:.2f}" for gain in gains)]
            )
    page.table(["method", "threads", "Mweights/s", "ours", "multiply-add", "copy", "traffic"], rows)
    if len(records[0]["labels"]["cores"]) > 1:
        page.chart("parallel", "Scaling with threads", _scaling_chart(found, records))


def _scaling_chart(found: Findings, records: list[Record]) -> str:
    def curve(name: str, record: Record, contestant: str) -> Series:
        cores = record["labels"]["cores"]
        return Series(name, [(n, found.scaling(record, contestant, n)) for n in cores])

    chosen = [record for record in records if record["labels"]["bits"] == 4]
    series = [curve(f"{r['labels']['method']} 4 bits", r, "ours") for r in chosen]
    series += [curve(name, chosen[-1], name) for name in ("multiply-add", "copy", "traffic")]
    return lines("Scaling with threads", series, "threads", "times one thread", log_x=True)


def peers(found: Findings, page: Page) -> None:
    """Other quantizers."""
    page.add("## Comparison with peers")
    records = found.records("peers")
    if records:
        page.add(
            "Each peer runs in an environment and a process of its own, in turn with our own "
            "method at the same width: `minmax` for peers that round to nearest, `lsq` for those "
            "that search (groups of 64, asymmetric), `superblock` for ggml's layouts of two levels. Both have all the threads. A slow peer gets the first rows of the same matrix, so many that a run "
            "takes one to two seconds. Every run begins when the threads of the one before are asleep; "
            "ours writes over its earlier result, peers do as their calls let them. “Slower” is the median of the ratios within a round, per "
            "weight. Bits are those the peer really stores; its SQNR is that of its own decoder."
        )
        page.table(
            ["peer", "against", "input", "Mweights/s", "slower than ours", "bits/weight", "SQNR dB",
             "ours bits", "ours dB", "memory MB"],
            [_peer_row(record) for record in records],
        )  # fmt: skip
        ordered = sorted(records, key=peer_ratio)
        page.chart(
            "peers",
            "How much slower each peer is",
            bars(
                "Slower than our method of the same kind and width",
                [Bar(r["name"], peer_ratio(r), times(peer_ratio(r)), _width(r)) for r in ordered],
                "times, logarithmic; the line is our own speed",
                log=True,
                mark=1.0,
                legend=("8 bits", "4 bits", "2 bits"),
            ),
        )
    else:
        page.add(NOT_MEASURED)
    failed = [(n, e) for benchmark, n, e in found.failures() if benchmark == "peers"]
    if failed:
        page.add("Peers that could not be measured here, with their own words:")
        page.table(["peer", "error"], [list(pair) for pair in failed], left=2)


def _width(record: Record) -> int:
    return {8: 0, 4: 1, 2: 2}[record["labels"]["bits"]]


def _peer_row(record: Record) -> list[str]:
    peer, ours = record["peer"], record["ours"]
    decoded = peer.get("sqnr_db")
    return [
        record["name"],
        record["labels"]["against"],
        peer["input"],
        number(peer["weights"] / median(record["seconds"]["peer"]) / 1e6),
        times(peer_ratio(record)),
        f"{peer['bits_per_weight']:.3f}",
        "–" if decoded is None else f"{decoded:.2f}",
        f"{ours['bits_per_weight']:.3f}",
        f"{ours['sqnr_db']:.2f}",
        number(peer["peak_bytes"] / 1e6),
    ]


def steps(found: Findings, page: Page) -> None:
    """What each optimisation brought, one after the other."""
    page.add("## Impact of each optimisation")
    page.add(
        "Round to nearest at 4 bits, groups of 64, each step over the one before. A step's factor "
        "is a ratio of pairwise medians within one benchmark; steps from different benchmarks meet "
        "in our own kernel, which runs in all of them."
    )
    rows: list[list[str]] = []
    total = found.times_faster("Python loop 4 bits G64")
    chain = [
        ("loop in Python", total),
        ("NumPy over groups, whole matrix", found.times_faster("NumPy 4 bits G64, whole matrix")),
        ("NumPy, block by block in the caches", found.times_faster("NumPy 4 bits G64")),
        ("plain loop through Numba, one thread", found.times_faster("Numba loop 4 bits G64")),
        ("our kernel", 1.0),
    ]  # fmt: skip
    known = [(name, value) for name, value in chain if value is not None]
    if len(known) < 2 or total is None:
        page.add(NOT_MEASURED)
        return
    before = total
    for name, slower in known:
        rows.append([name, times(before / slower), times(total / slower)])
        before = slower
    page.table(["step", "over the one before", "over the loop in Python"], rows)
    gain = found.vector_gain("minmax", 4)
    if gain:
        page.add(
            "Of this, vector instructions with the layout they ask for: "
            f"{times(gain)} on one thread (see above)."
        )


def switches(found: Findings, page: Page) -> None:
    """What each part of the engine brings."""
    kernels_and_jobs = found.records("switches")
    page.add("### One part switched off at a time")
    if not kernels_and_jobs:
        page.add(NOT_MEASURED)
        return
    records = {
        what: [r for r in kernels_and_jobs if r["labels"]["what"] == kind]
        for what, kind in (("kernel", "kernel"), ("job, folder to folder", "job"))
    }
    records["job, bucket to bucket"] = [
        r for r in found.records("pipeline_s3") if set(r["seconds"]) - COMPARED
    ]
    page.add(
        "The time without a part over the time with it, median of the ratios within a round: more "
        "than 1 is what the part brings, about 1 means that it brings nothing here. Jobs are whole "
        "processes, start included; without overlap nothing is read while a tile is quantized or "
        "written."
    )
    for what, those in records.items():
        chosen = [r for r in those if r["seconds"].get("ours")]
        if not chosen:
            continue
        parts = list(dict.fromkeys(p for r in chosen for p in r["seconds"] if p not in COMPARED))
        page.table(
            [what, "Mweights/s", *parts],
            [
                [r["name"], number(rate(r) / 1e6), *(_without(r, part) for part in parts)]
                for r in chosen
            ],
        )


def _without(record: Record, part: str) -> str:
    runs = record["seconds"].get(part)
    return times(median_ratio(runs, record["seconds"]["ours"])) if runs else "–"
