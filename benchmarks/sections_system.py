"""The report on the whole: summary, method, memory, whole jobs, stores, start, commands."""

from __future__ import annotations

from statistics import median

from benchmarks import targets
from benchmarks.__main__ import BENCHMARKS
from benchmarks.charts import Bar, Series, bars, lines
from benchmarks.findings import Findings, Record, peak, rate, roofline
from benchmarks.page import NOT_MEASURED, Page, megabytes, number, percent, times
from benchmarks.timing import median_ratio

BUSY = 1.0  # a load average above this, with only us at work, means that others were too

# Whole jobs against moving the same bytes, by method and width.
JOB_BARS = {
    **{("minmax", bits): 1.5 for bits in (8, 4, 2)},
    ("lsq", 4): 3.0,
    ("superblock", 2): 15.0,
}


def summary(found: Findings, page: Page) -> None:
    """What matters most, in a few lines, all of it computed."""
    lines_: list[str] = []
    best = max(found.select("speed", bits=4, group=64, symmetric=False), key=rate, default=None)
    if best:
        lines_.append(
            f"`{best['labels']['method']}` quantizes {number(rate(best) / 1e6)} million weights a "
            f"second to 4 bits on {found.results['speed']['options']['threads']} threads, "
            f"{percent(roofline(best))} of what merely moving the bytes allows."
        )
    for name in ("ggml (C) Q4_0", "ONNX Runtime 4 bits G64", "MLX 4 bits G64", "hqq 4 bits G64"):
        ratio = found.times_faster(name)
        if ratio:
            lines_.append(f"Against {name}: {times(ratio)} as fast.")
    for method, bits in (("lsq", 4), ("superblock", 4), ("superblock", 2), ("rotated trellis", 2)):
        least = found.usual("accuracy", source="gaussian", method=method, bits=bits)
        if least:
            lines_.append(
                f"`{method}` at {least['bits_per_weight']:.2f} bits a weight: {least['sqnr_db']:.2f} dB "
                f"on Gaussian weights, {least['shannon_db'] - least['sqnr_db']:.2f} dB below Shannon's bound."
            )
    large = [r for r in found.select("pipeline", size="7B") if r["seconds"]["ours"]]
    lines_ += [
        f"A job of {r['name']}: {number(median(r['seconds']['ours']))} s, "
        f"{times(median_ratio(r['seconds']['ours'], r['seconds']['move']))} what moving the bytes takes."
        for r in large
    ]
    memories = found.records("memory")
    if memories:
        worst = max(record["peak_rss_bytes"] for record in memories)
        lines_.append(
            f"A model of {memories[0]['source_bytes'] / 1e9:.1f} GB with a tensor of 1 GB takes "
            f"{megabytes(worst)} MB of memory at most."
        )
    failed = len(found.failures())
    if failed:
        lines_.append(f"{failed} measurements failed; each is listed where it belongs.")
    verdicts = targets.verdicts(found)
    lines_.append(
        f"Of {len(verdicts)} targets {sum(v is True for v in verdicts)} are met, "
        f"{sum(v is False for v in verdicts)} missed, {sum(v is None for v in verdicts)} not measured yet."
    )
    page.add("## Executive summary")
    page.add(_caution(found))
    page.add("\n".join(f"- {line}" for line in lines_) or NOT_MEASURED)


def _caution(found: Findings) -> str:
    quick = [name for name, result in found.results.items() if result["options"].get("quick")]
    loads = [result["machine"]["load_average"][0] for result in found.results.values()]
    notes = []
    if loads and max(loads) > BUSY:
        notes.append(
            f"the machine was shared (load average {min(loads):.1f} to {max(loads):.1f} at the "
            "start of the runs), so seconds are pessimistic and only ratios within a run hold"
        )
    if quick:
        notes.append(f"these runs were short ones (`--quick`): {', '.join(quick)}")
    return f"**Provisional:** {'; '.join(notes)}." if notes else ""


def method(found: Findings, page: Page) -> None:
    """The machine and the rules."""
    page.add("## Method and machine")
    page.add(
        "\n".join(
            (
                "- Whatever is compared runs in the same rounds: A, B, C, A, B, C, … A ratio is the "
                "median of the ratios within each round.",
                "- Every run's seconds are kept, in `benchmarks/results/`; this page is computed "
                "from those files and nothing else (`make report`).",
                "- Weights are llm-like unless said: Gaussian, a log-normal gain for each input "
                "channel, one weight in a thousand five times as large; BF16.",
                "- Bits per weight count everything stored: codes, scales, minima.",
                "- What cannot be measured is printed as failed and listed here as failed.",
            )
        )
    )
    rows = []
    for name, result in found.results.items():
        machine, options = result["machine"], result["options"]
        after = result.get("load_average_after", ["–"])[0]
        rows.append(
            [
                name,
                machine["time"],
                machine["cpu"],
                str(machine["cores"]),
                f"{machine['memory_bytes'] / 2**30:.0f}",
                f"{machine['load_average'][0]} / {after}",
                str(options.get("rounds", 1)),
                "short" if options.get("quick") else "full",
            ]
        )
    page.table(
        ["benchmark", "when", "processor", "cores", "GiB", "load before / after", "rounds", "form"],
        rows,
        left=3,
    )
    versions: dict[str, str] = {}
    for result in found.results.values():
        versions |= result["machine"].get("versions", {})
    page.add("Ours: " + ", ".join(f"{name} {number_}" for name, number_ in versions.items()) + ".")
    peers = found.results.get("peers", {}).get("machine", {}).get("peers", {})
    if peers:
        page.table(
            ["peer", "versions"],
            [
                [peer, ", ".join(f"{k} {v}" for k, v in each.items())]
                for peer, each in peers.items()
            ],
            left=2,
        )


def memory(found: Findings, page: Page) -> None:
    """Streaming against loading it all."""
    page.add("## Memory: streaming against loading it all")
    records = found.records("memory")
    if records:
        page.add(
            "Peak resident memory of the process that quantizes, as the kernel accounts for it; "
            "a synthetic model with one tensor of 1 GB, 4 bits, limit 500 MiB."
        )
        page.table(
            ["form", "model MB", "peak MB", "limit MB", "seconds"],
            [
                [
                    record["name"],
                    megabytes(record["source_bytes"]),
                    megabytes(record["peak_rss_bytes"]),
                    megabytes(record["cap_bytes"]),
                    number(median(record["seconds"]["ours"])),
                ]
                for record in records
            ],
        )
    both = [r for r in found.records("pipeline") if r["processes"].get("batch")]
    if both:
        page.add(
            "The same jobs done by a process that loads the whole checkpoint and then quantizes "
            "it with the same kernels, as lean as that way can be:"
        )
        page.table(
            ["job", "streaming MB", "load-it-all MB", "share"],
            [
                [
                    record["name"],
                    megabytes(peak(record["processes"]["ours"])),
                    megabytes(peak(record["processes"]["batch"])),
                    percent(peak(record["processes"]["ours"]) / peak(record["processes"]["batch"])),
                ]
                for record in both
            ],
        )
        page.chart(
            "memory",
            "Peak memory, streaming and load-it-all",
            bars(
                "Peak memory of whole jobs",
                [
                    Bar(f"{r['name']}", peak(r["processes"][k]) / 1e6, megabytes(peak(r["processes"][k])), n)
                    for r in both
                    for n, k in enumerate(("ours", "batch"))
                ],
                "MB",
                legend=("streaming", "load it all"),
            ),
        )  # fmt: skip
    if not records and not both:
        page.add(NOT_MEASURED)


def size(found: Findings, page: Page) -> None:
    """Whole jobs as models grow."""
    page.add("## Whole jobs, and scaling with size")
    records = [r for r in found.records("pipeline") if r["seconds"]["ours"]]
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "`arrowquant quantize` from folder to folder, a process from start to end, against a bare "
        "mover that reads as many bytes and writes as many, safely on disk, in the same rounds. "
        "The page cache is warm for both."
    )
    rows = []
    for record in records:
        labels, ours = record["labels"], record["seconds"]["ours"]
        ratio = median_ratio(ours, record["seconds"]["move"])
        bar = JOB_BARS.get((labels["method"], labels["bits"]))
        met = "–" if bar is None else f"{bar:g} × {'met' if ratio <= bar else 'missed'}"
        rows.append(
            [
                record["name"],
                number(median(ours)),
                number(median(record["seconds"]["move"])),
                times(ratio),
                met if labels["size"] == "7B" else "for 7B",
                f"{1e9 * median(ours) / record['weights']:.2f}",
                megabytes(peak(record["processes"]["ours"])),
            ]
        )
    page.table(
        ["job", "seconds", "mover", "ratio", "bar", "ns/weight", "peak MB"],
        rows,
    )
    sizes = list(dict.fromkeys(record["labels"]["size"] for record in records))
    if len(sizes) > 1:
        page.chart("size", "Cost per weight as models grow", _growth(records))
        page.add(
            "Processor time of a job as a line over the size of the model: what every job costs, "
            "whatever its size (start of the process, plan, ledger, opening and publishing), and "
            "what each weight costs."
        )
        page.table(
            ["method", "fixed CPU s", "CPU ns/weight"],
            [
                [n, f"{fixed:.2f}", f"{slope:.2f}"]
                for n, fixed, slope in found.fixed_and_per_weight()
            ],
        )


def _growth(records: list[Record]) -> str:
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in records:
        name = f"{record['labels']['method']} {record['labels']['bits']} bits"
        cost = 1e9 * median(record["seconds"]["ours"]) / record["weights"]
        curves.setdefault(name, []).append((record["weights"], cost))
    return lines(
        "Cost per weight of a whole job",
        [Series(name, sorted(points)) for name, points in curves.items()],
        "weights in the model",
        "nanoseconds per weight",
        log_x=True,
    )


def stores(found: Findings, page: Page) -> None:
    """Stores against a bare mover."""
    page.add("## Stores")
    records = found.records("io")
    if not records:
        page.add(NOT_MEASURED)
        return
    page.add(
        "Our stores against the barest way to move the same bytes. Both ends of S3 run on this "
        "machine, so processor seconds of the client tell more than wall time."
    )
    page.table(
        ["what", "MB/s", "bare MB/s", "wall ratio", "our CPU s/GB", "bare CPU s/GB"],
        [
            [
                record["name"],
                *(number(record["bytes"] / median(record["seconds"][k]) / 1e6) for k in ("ours", "move")),
                times(median_ratio(record["seconds"]["ours"], record["seconds"]["move"])),
                *(number(1e9 * median(record["cpu_seconds"][k]) / record["bytes"]) for k in ("ours", "move")),
            ]
            for record in records
        ],
    )  # fmt: skip


def cold_start(found: Findings, page: Page) -> None:
    """New processes."""
    page.add("## Cold start")
    records = found.records("cold_start")
    if not records:
        page.add(NOT_MEASURED)
        return
    rows = []
    for record in records:
        warm = record["parts"]["warm"]
        rows.append(
            [
                record["name"],
                number(median(record["seconds"]["warm"])),
                number(median(record["seconds"]["imports"])),
                number(median(part["first_tile"] for part in warm)),
                number(1e3 * median(part["second_tile"] for part in warm)),
                number(median(record["seconds"]["cold"])),
            ]
        )
    page.add(
        "A new Python process up to the end of its first tile, with the kernels' compiled form on "
        "disk (warm) and without (cold: everything is compiled). “Imports” is a process that only "
        "imports NumPy and Numba."
    )
    page.table(
        ["method", "warm s", "imports s", "first tile s", "second tile ms", "cold s"],
        rows,
    )


def appendix(found: Findings, page: Page) -> None:
    """Commands."""
    page.add(
        "## Appendix: commands",
        "```\n"
        "make bench                                       # everything, then the report\n"
        "make bench BENCH_ARGS='speed peers --bit-width 4'  # a part of it\n"
        "make report                                      # the report from the results at hand\n"
        "python -m benchmarks --help                      # all options\n"
        "python -m benchmarks --all --quick               # shows that everything runs\n"
        "python -m benchmarks speed --compare OLD.json    # worse than before?\n"
        "```",
    )
    page.table(
        ["measured by", "raw result", "records", "failed"],
        [
            [
                f"`python -m benchmarks {name}`",
                f"`benchmarks/results/{name}.json`"
                if name in found.results
                else "not measured yet",
                str(len(found.records(name))),
                str(sum(benchmark == name for benchmark, _, _ in found.failures())),
            ]
            for name in BENCHMARKS
        ],
        left=2,
    )
    failed = [[b, n, e] for b, n, e in found.failures() if b != "peers"]
    if failed:
        page.add("Failed measurements other than peers:")
        page.table(["benchmark", "what", "error"], failed, left=3)
