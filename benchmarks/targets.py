"""What we hold ourselves to, and where the results at hand put us."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from benchmarks.findings import Findings, peak, peer_ratio, rate, roofline
from benchmarks.page import Page, megabytes, number, percent, times
from benchmarks.timing import median_ratio

Answer = tuple[str, bool] | None


@dataclass(frozen=True, slots=True)
class Target:
    """Some work, the bar for it, how the results answer (what was reached, and whether it is enough), and what
    stops us where it is not."""

    work: str
    bar: str
    answer: Callable[[Findings], Answer]
    limit: Callable[[Findings], str | None] = lambda _: None


def _bandwidth(name: str) -> Callable[[Findings], str | None]:
    """How many times as fast as a peer the traffic loop is, which does nothing but move the bytes."""

    def limit(found: Findings) -> str | None:
        record = found.peer(name)
        moved = found.first("speed", method="minmax", bits=4, group=64, symmetric=False)
        if record is None or moved is None:
            return None
        theirs = record["peer"]["weights"] / median(record["seconds"]["peer"])
        return (
            f"moving the bytes and nothing else, {number(rate(moved, 'traffic') / 1e6)} Mweights/s here, is "
            f"{times(rate(moved, 'traffic') / theirs)} as fast as {name}, {number(theirs / 1e6)} Mweights/s"
        )

    return limit


def _shares(found: Findings, groups: tuple[int, ...]) -> list[tuple[float, str]]:
    """Of the traffic loop, and whose, of the widths that have a bar."""
    return [
        (roofline(record), record["name"])
        for group in groups
        for bits in (8, 4, 2)
        for record in found.select("speed", method="minmax", group=group, bits=bits)
    ]


def _roofline(groups: tuple[int, ...], least: float) -> Callable[[Findings], Answer]:
    def answer(found: Findings) -> Answer:
        shares = _shares(found, groups)
        if not shares:
            return None
        (low, name), (high, _) = min(shares), max(shares)
        return f"{low:.1%} ({name}) to {high:.1%}", low >= least

    return answer


def _below(groups: tuple[int, ...], least: float) -> Callable[[Findings], str | None]:
    """Which settings are below the bar, and what their inner loop takes."""

    def limit(found: Findings) -> str | None:
        low = [f"{name} {share:.1%}" for share, name in _shares(found, groups) if share < least]
        loops = {r["name"]: r["instructions_per_weight"] for r in found.records("loops")}
        taken = [
            loops.get(f"nearest: {part}") for part in ("range of a group", "codes and error sums")
        ]
        if not low or None in taken:
            return None
        return (
            f"instructions: {taken[0]:.2f} a weight for the range and {taken[1]:.2f} for codes and error sums as "
            f"compiled for AVX2, and the scale of each group, which weigh more the fewer bytes a weight moves; "
            f"below are {', '.join(low)}"
        )

    return limit


def _peer(name: str, least: float) -> Callable[[Findings], Answer]:
    def answer(found: Findings) -> Answer:
        ratio = found.times_faster(name)
        return None if ratio is None else (times(ratio), ratio >= least)

    return answer


def _vectors(kind: str, least: float) -> Callable[[Findings], Answer]:
    def answer(found: Findings) -> Answer:
        compiled = "AVX2 only" if kind == "AVX2" else "ours"
        if kind != "AVX2" and found.vectors() != kind:
            return None
        gains = [found.vector_gain("minmax", bits, compiled=compiled) for bits in (8, 4, 2)]
        known = [gain for gain in gains if gain is not None]
        return (
            (f"{times(min(known))} to {times(max(known))}", min(known) >= least) if known else None
        )

    return answer


def _fit(bits: int, decibels: float, speed: float) -> Callable[[Findings], Answer]:
    def answer(found: Findings) -> Answer:
        record = found.first("speed", method="lsq", bits=bits, group=64, symmetric=False)
        if record is None:
            return None
        reached = rate(record) / 1e6
        words = f"{record['sqnr_db']:.2f} dB, {number(reached)} Mweights/s"
        return words, record["sqnr_db"] >= decibels and reached >= speed

    return answer


def _job(method: str, bits: int, most: float) -> Callable[[Findings], Answer]:
    def answer(found: Findings) -> Answer:
        record = found.first("pipeline", size="7B", method=method, bits=bits)
        if record is None or not record["seconds"]["ours"]:
            return None
        ratio = median_ratio(record["seconds"]["ours"], record["seconds"]["move"])
        return times(ratio), ratio <= most

    return answer


def _store(most: float) -> Callable[[Findings], Answer]:
    """Whole jobs of the largest model that was run from bucket to bucket."""

    def answer(found: Findings) -> Answer:
        records = [r for r in found.records("pipeline_s3") if r["seconds"]["ours"]]
        if not records:
            return None
        size = max(records, key=lambda record: float(record["weights"]))["labels"]["size"]
        ratios = {
            record["name"]: median_ratio(record["seconds"]["ours"], record["seconds"]["move"])
            for record in records
            if record["labels"]["size"] == size
        }
        words = ", ".join(f"{times(ratio)} ({name})" for name, ratio in ratios.items())
        return words, max(ratios.values()) <= most and size == "7B"

    return answer


def _memory(found: Findings) -> Answer:
    records = found.records("memory")
    if not records:
        return None
    most = max(record["peak_rss_bytes"] for record in records)
    return f"{megabytes(most)} MB", most <= 500 * 2**20


def _batch(found: Findings) -> Answer:
    shares = found.batch_shares()
    if not shares:
        return None
    size, share = shares[-1]
    return f"{percent(share)} ({size})", share <= 0.37


def _linear(found: Findings) -> Answer:
    """What a weight more costs in processor time, from one size to the next."""
    points: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for record in found.records("pipeline"):
        if runs := record["processes"]["ours"]:
            key = record["labels"]["method"], record["labels"]["bits"]
            cost = median(run["cpu_seconds"] for run in runs)
            points.setdefault(key, []).append((record["weights"], cost))
    spreads = []
    for each in points.values():
        steps = [(d - b) / (c - a) for (a, b), (c, d) in pairwise(sorted(each)) if c > a]
        if len(steps) > 1 and min(steps) > 0:
            spreads.append(max(steps) / min(steps) - 1)
    return (f"{percent(max(spreads))} apart", max(spreads) <= 0.1) if spreads else None


def _threads(method: str) -> Callable[[Findings], Answer]:
    def answer(found: Findings) -> Answer:
        record = found.first("parallel", method=method, bits=4)
        if record is None or 2 not in record["labels"]["cores"]:
            return None
        gain, limit = (found.scaling(record, name, 2) for name in ("ours", "multiply-add"))
        return f"{gain:.2f} ×, multiply-add {limit:.2f} ×", gain >= min(1.7, limit)

    return answer


def _better(peer: str, decibels: float, least: float) -> Callable[[Findings], Answer]:
    """Against a peer that searches: by so many dB, and so many times as fast."""

    def answer(found: Findings) -> Answer:
        record = found.peer(peer)
        if record is None:
            return None
        gain = record["ours"]["sqnr_db"] - record["peer"]["sqnr_db"]
        ratio = peer_ratio(record)
        rates = (record[who]["bits_per_weight"] for who in ("ours", "peer"))
        words = " against ".join(f"{each:.3f}" for each in rates)
        return f"{gain:+.2f} dB, {times(ratio)} ({words} bits)", gain >= decibels and ratio >= least

    return answer


def _added(contestant: str, most: float) -> Callable[[Findings], Answer]:
    """The largest share of a job's time that a step adds, by the time of its processors."""

    def answer(found: Findings) -> Answer:
        shares = []
        for record in found.records("diffusion_cost"):
            with_it, without = (
                [run["cpu_seconds"] for run in record["processes"][name]]
                for name in (contestant, "calibrated")
            )
            if with_it and without:
                shares.append((median_ratio(with_it, without) - 1, record["name"]))
        if not shares:
            return None
        (low, _), (high, name) = min(shares), max(shares)
        return f"{low:+.1%} to {high:+.1%} ({name})", high <= most

    return answer


def _gptq(least: float) -> Callable[[Findings], Answer]:
    """Against the loop in torch, at no larger error of the outputs."""

    def answer(found: Findings) -> Answer:
        record = next((r for r in found.records("gptq") if r["seconds"].get("peer")), None)
        if record is None:
            return None
        ratio = median_ratio(record["seconds"]["peer"], record["seconds"]["ours"])
        ours, theirs = record["rho"]["ours"], record["rho"]["peer"]
        words = f"{times(ratio)}, error {ours:.5f} against {theirs:.5f}"
        return words, ratio >= least and ours <= theirs * 1.01

    return answer


def _start(most: float) -> Callable[[Findings], Answer]:
    def answer(found: Findings) -> Answer:
        starts = {r["name"]: median(r["seconds"]["warm"]) for r in found.records("cold_start")}
        if not starts:
            return None
        words = ", ".join(f"{number(seconds)} s ({name})" for name, seconds in starts.items())
        return words, max(starts.values()) < most

    return answer


def _trellis(found: Findings) -> Answer:
    records = [found.first("trellis", source=name, bits=2) for name in ("gaussian", "rotated")]
    known = [record for record in records if record is not None]
    if not known:
        return None
    decibels = min(record["sqnr_db"] for record in known)
    made, read = (
        min(record["weights"] / median(record["seconds"][what]) / 1e6 for record in known)
        for what in ("ours", "decode")
    )
    reached = f"{decibels:.2f} dB at {number(made, 1)} Mweights/s, decoded at {number(read)}"
    return reached, decibels >= 11.2 and made >= 5 and read >= 200


def _resident(found: Findings) -> Answer:
    runs = [run for r in found.records("pipeline") for run in r["processes"]["ours"]]
    return (f"{megabytes(peak(runs))} MB", peak(runs) <= 500 * 2**20) if runs else None


def _faster(work: str, name: str, least: float) -> Target:
    """So many times as fast as a peer, unless moving the bytes alone is not."""
    return Target(work, f"≥ {least} ×", _peer(name, least), _bandwidth(name))


TARGETS = (
    Target("`minmax` 8, 4, 2 bits, G64 and G128", "≥ 75 % of the traffic loop", _roofline((64, 128), 0.75), _below((64, 128), 0.75)),
    Target("`minmax` 8, 4, 2 bits, G32", "≥ 65 % of the traffic loop", _roofline((32,), 0.65), _below((32,), 0.65)),
    _faster("`minmax` 4 bits against ggml Q4_0 (C)", "ggml (C) Q4_0", 6),
    _faster("… against ONNX Runtime", "ONNX Runtime 4 bits G64", 30),
    _faster("… against MLX", "MLX 4 bits G64", 20),
    _faster("… against NumPy, whole matrix", "NumPy 4 bits G64, whole matrix", 50),
    _faster("… against a loop in Python", "Python loop 4 bits G64", 700),
    Target("vector against scalar, AVX-512", "≥ 6 ×", _vectors("AVX-512", 6)),
    Target("vector against scalar, AVX2", "≥ 5 ×", _vectors("AVX2", 5)),
    Target("`lsq` 4 bits G64", "≥ 20.5 dB at ≥ 350 Mweights/s", _fit(4, 20.5, 350)),
    Target("`lsq` 2 bits G64", "≥ 9.0 dB at ≥ 350 Mweights/s", _fit(2, 9.0, 350)),
    Target("`lsq` 4 bits against hqq", "no worse, ≥ 100 ×", _better("hqq 4 bits G64", 0, 100)),
    Target(
        "`superblock` at 4.5 bits a weight against ggml Q4_K",
        "≥ +0.2 dB, ≥ 10 ×",
        _better("ggml (C) Q4_K", 0.2, 10),
    ),
    Target(
        "`superblock` at 2.625 against Q2_K",
        "≥ +1.0 dB, ≥ 5 ×",
        _better("ggml (C) Q2_K", 1.0, 5),
    ),
    Target(
        "`superblock` at 2.375 against IQ2_XS",
        "no worse, ≥ 50 ×",
        _better("ggml (C) IQ2_XS", 0, 50),
    ),
    Target("time-aware step in a job", "≤ 7 % of its processor time", _added("time-aware", 0.07)),
    Target("spatial step in a job", "≤ 9 % of its processor time", _added("smoothed", 0.09)),
    Target("GPTQ against a loop in torch", "≥ 2 ×, error within 1 %", _gptq(2)),
    Target("`trellis` at 2 bits", "≥ 11.2 dB at ≥ 5 Mweights/s, decode ≥ 200", _trellis),
    Target("7B `minmax` 4 bits, folder to folder", "≤ 1.5 × moving the bytes", _job("minmax", 4, 1.5)),
    Target("7B `lsq` 4 bits, folder to folder", "≤ 3 × moving the bytes", _job("lsq", 4, 3)),
    Target(
        "7B `superblock` 2 bits, folder to folder",
        "≤ 15 × moving the bytes",
        _job("superblock", 2, 15),
    ),
    Target("The same jobs, bucket to bucket on this machine", "≤ 1.3 × a bare mover", _store(1.3)),
    Target("peak memory, tensor of 1 GB", "≤ 500 MiB", _memory),
    Target("peak memory of whole jobs", "≤ 500 MiB", _resident),
    Target("peak memory against loading it all", "≤ 37 %", _batch),
    Target("cost per weight as models grow", "within 10 %", _linear),
    Target("`lsq` on 2 threads", "≥ 1.7 ×, or what multiply-add gives", _threads("lsq")),
    Target("`superblock` on 2 threads", "≥ 1.7 ×, or what multiply-add gives", _threads("superblock")),
    Target("a new process to its first tile, kernels compiled", "< 1 s", _start(1.0)),
)  # fmt: skip


def verdicts(found: Findings) -> list[bool | None]:
    """Whether each target is met; None where it is not measured yet."""
    answers = (target.answer(found) for target in TARGETS)
    return [None if answer is None else answer[1] for answer in answers]


def section(found: Findings, page: Page) -> None:
    """The targets as a table."""
    page.add("## Targets")
    rows = []
    for target in TARGETS:
        answer = target.answer(found)
        reached, met = answer or ("–", None)
        verdict = "not measured yet" if met is None else "met" if met else "**missed**"
        rows.append([target.work, target.bar, reached, verdict])
    page.table(["work", "target", "reached", "verdict"], rows, left=4)
    _stopped(found, page)


def _stopped(found: Findings, page: Page) -> None:
    """What stops us where a bar is missed."""
    lines = []
    for target in TARGETS:
        answer, limit = target.answer(found), target.limit(found)
        if answer and not answer[1] and limit:
            lines.append(f"- {target.work}: {limit}.")
    if lines:
        page.add("What stops us at some of those that are missed:", "\n".join(lines))
