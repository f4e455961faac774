"""What an earlier report of the same name said of itself, claim by claim, beside our measurement.

The claims are quoted as they were made; that report's own tables call them expected or estimated,
and no raw result of it exists. Nothing here repeats one as ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from benchmarks import accuracy_bars
from benchmarks.accuracy_bars import LOSSES
from benchmarks.findings import Findings, Record

PENDING = "not measured yet"
EVENED = re.compile(r" (smoothed|folded) by \w+$")


@dataclass(frozen=True, slots=True)
class Claim:
    """A claim, and how our measurements answer it: measured value and verdict, or what is missing."""

    subject: str
    claimed: str
    answer: Callable[[Findings], tuple[str, str] | None]
    missing: str = PENDING


def _nothing(_: Findings) -> None:
    return None


def _against(peer: str, least: float) -> Callable[[Findings], tuple[str, str] | None]:
    def answer(found: Findings) -> tuple[str, str] | None:
        ratio = found.times_faster(f"{peer} 4 bits G64")
        if ratio is None:
            return None
        verdict = "reached and passed" if ratio > least else "not reached"
        return f"{ratio:.0f} times as fast as {peer}, 4 bits", verdict

    return answer


def _simd(found: Findings) -> tuple[str, str] | None:
    ratio = found.vector_gain("minmax", 4)
    if ratio is None:
        return None
    return f"{ratio:.1f} times a plain scalar loop", "reached" if ratio >= 3.3 else "not reached"


def _threads(found: Findings) -> tuple[str, str] | None:
    record = found.first("parallel", method="lsq", bits=4)
    if record is None:
        return None
    cores = max(record["labels"]["cores"])
    gain = found.scaling(record, "ours", cores)
    return (
        f"{gain:.2f} times on {cores} threads ({gain / cores:.0%} each)",
        "no machine with 8 cores measured",
    )


def _memory(found: Findings) -> tuple[str, str] | None:
    records = found.records("memory")
    if not records:
        return None
    peak = max(record["peak_rss_bytes"] for record in records)
    return (
        f"{peak / 1e6:.0f} MB at most on a model of {records[0]['source_bytes'] / 1e9:.1f} GB",
        "less, on a smaller model" if peak < 457e6 else "not reached",
    )


def _streaming(found: Findings) -> tuple[str, str] | None:
    shares = found.batch_shares()
    if not shares:
        return None
    size, share = shares[-1]
    return f"{share:.0%} at {size}", "reached" if share <= 0.37 else "not reached at this size"


def _duration(size: str, limit: float) -> Callable[[Findings], tuple[str, str] | None]:
    def answer(found: Findings) -> tuple[str, str] | None:
        runs = [r for r in found.records("pipeline") if r["labels"]["size"] == size]
        runs = [r for r in runs if r["seconds"]["ours"]]
        if not runs:
            return None
        slowest = max(median(record["seconds"]["ours"]) for record in runs)
        return f"{slowest:.1f} s, the slowest method", "reached" if slowest < limit else "missed"

    return answer


def _accuracy(found: Findings) -> tuple[str, str] | None:
    record = found.first("accuracy", source="llm-like", method="lsq", bits=2, group=64)
    if record is None:
        return None
    return (
        f"cosine of weights {record['cosine']:.3f} at {record['bits_per_weight']:.2f} bits a weight",
        "passed; but such a cosine says little of a model's use",
    )


def _pairs(found: Findings) -> Iterator[tuple[str, float, float]]:
    """By model and row: the loss with one static range, and with clipped ranges by groups of time."""
    for model, records in _rows(found):
        for static in records:
            if _mode(static) != "static":
                continue
            for timed in records:
                if _mode(timed) == "time-mse" and _apart_from_mode(timed) == _apart_from_mode(
                    static
                ):
                    key = LOSSES[model]
                    yield f"{model} {_short(static)}", static[key], timed[key]


def _mode(record: Record) -> str | None:
    return (record["labels"]["activations"] or {}).get("mode")


def _apart_from_mode(record: Record) -> tuple[object, ...]:
    acts = record["labels"]["activations"]
    return record["labels"]["weights"], acts["bits"], acts.get("fold"), "table" in acts


def _smoothed(found: Findings) -> Iterator[tuple[str, float, float]]:
    """By model and row: the added Fréchet distance without and with ranges moved into the weights."""
    for model, records in _rows(found):
        plain = {record["name"]: record for record in records}
        for record in records:
            other = plain.get(EVENED.sub("", record["name"]))
            if other is not None and other is not record and "frechet_added" in record:
                yield f"{model} {_short(other)}", other["frechet_added"], record["frechet_added"]


def _rows(found: Findings) -> Iterator[tuple[str, list[Record]]]:
    for model, key in LOSSES.items():
        records = [r for r in found.select("end_metrics", model=model) if key in r]
        yield model, [r for r in records if "family" in r["labels"]]


def _short(record: Record) -> str:
    return str(record["name"]).partition(": ")[2]


def _cut(
    pairs: Callable[[Findings], Iterator[tuple[str, float, float]]], least: float
) -> Callable[[Findings], tuple[str, str] | None]:
    """How much of a loss is taken back, row by row, against a share that was claimed."""

    def answer(found: Findings) -> tuple[str, str] | None:
        # A loss that is not above zero has nothing to take back.
        cuts = [(name, a, b, 1 - b / a) for name, a, b in pairs(found) if a > 0]
        if not cuts:
            return None
        words = "; ".join(
            f"{name}: loss {a:.3g} → {b:.3g} ({-cut:+.0%})" for name, a, b, cut in cuts
        )
        enough = sum(cut >= least for *_, cut in cuts)
        return words, f"the gain is reached in {enough} of {len(cuts)} rows"

    return answer


def _like_q_dit(found: Findings) -> tuple[str, str] | None:
    lines = [
        line
        for model, records in _rows(found)
        for line in accuracy_bars.like_q_dit(accuracy_bars.Rows(model, records))
        if line.met is not None
    ]
    if not lines:
        return None
    good = sum(line.met is True for line in lines)
    words = f"at least as good as GPTQ and a pipeline like Q-DiT's in {good} of {len(lines)} rows"
    return f"{words}, by end metrics (accuracy.md)", "reached" if good == len(
        lines
    ) else "not everywhere"


def _impossible(found: Findings) -> tuple[str, str]:
    bits = 8 * 32.5e6 / 7e9
    return (
        f"{bits:.3f} bits a weight: cosine at most {(1 - 2 ** (-2 * bits)) ** 0.5:.2f} by Shannon",
        "impossible, together with that accuracy",
    )


CLAIMS = (
    Claim("speed against Python", "5 to 10 times", _against("Python loop", 10)),
    Claim("speed against Python, on average", "7.5 times", _against("NumPy", 7.5)),
    Claim("7B against Q-DiT", "246 s against 734 s", _nothing, "Q-DiT publishes no such time"),
    Claim("vector instructions, AVX2", "3.3 to 3.8 times", _simd),
    Claim("vector instructions, NEON", "2.0 to 2.5 times", _nothing, "no such processor measured"),
    Claim("8 cores", "6.37 times, 79.6 % each", _threads),
    Claim("16 cores", "scales well", _nothing, "no such machine measured"),
    Claim("100M", "18 to 30 s (limit 120 s)", _duration("100M", 120)),
    Claim("600M", "80 to 120 s (limit 600 s)", _duration("600M", 600)),
    Claim("7B", "200 to 300 s (limit 300 s)", _duration("7B", 300)),
    Claim("memory of 7B, streaming", "457 MB", _memory),
    Claim("streaming against batch", "37 %", _streaming),
    Claim("memory against Python", "40 to 48 %", _nothing, "see streaming against batch"),
    Claim("memory against Q-DiT", "2346 MB against 5678 MB", _nothing, "Q-DiT publishes no such size"),
    Claim("accuracy of 7B at 2 bits", "0.73", _accuracy),
    Claim("size of 7B at 2 bits", "32.5 MB", _impossible),
    Claim("accuracy against Q-DiT", "0.73 against 0.72", _like_q_dit, "Q-DiT publishes no such figure"),
    Claim("Rust, then vectors, then threads", "1834, 892, 456, 246 s", _nothing, "see the steps above"),
    Claim("time groups", "3 to 7 % slower, 4 to 9 % more accurate", _cut(_pairs, 0.04)),
    Claim("spatial quantization", "4 to 9 % slower, FID lower by 47 %", _cut(_smoothed, 0.47)),
    Claim("tests", "289, coverage above 85 %", _nothing, "not a benchmark: `make test` counts them"),
)  # fmt: skip


def rows(found: Findings) -> list[tuple[str, str, str, str]]:
    """Subject, claimed, measured, verdict."""
    table = []
    for claim in CLAIMS:
        answer = claim.answer(found)
        measured, verdict = answer or ("–", claim.missing)
        table.append((claim.subject, claim.claimed, measured, verdict))
    return table
