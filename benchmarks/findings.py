"""Questions that the report asks of the raw results. Everything is computed here, nothing kept."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.timing import median_ratio
from service.domain.methods import METHODS

Record = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Findings:
    """All result files, by benchmark."""

    results: dict[str, dict[str, Any]]

    def records(self, benchmark: str) -> list[Record]:
        """The records of a benchmark; none when it was not run."""
        found: list[Record] = self.results.get(benchmark, {}).get("records", [])
        return found

    def failures(self) -> list[tuple[str, str, str]]:
        """Benchmark, name and error of everything that failed."""
        return [
            (benchmark, failure["name"], failure["error"])
            for benchmark, result in self.results.items()
            for failure in result.get("failures", [])
        ]

    def select(self, benchmark: str, **labels: Any) -> list[Record]:
        """Records with all of these labels."""
        return [
            record
            for record in self.records(benchmark)
            if all(record["labels"].get(key) == value for key, value in labels.items())
        ]

    def first(self, benchmark: str, **labels: Any) -> Record | None:
        """The first record with these labels."""
        return next(iter(self.select(benchmark, **labels)), None)

    def usual(self, benchmark: str, **labels: Any) -> Record | None:
        """The record with these labels at the usual setting of its method and width."""
        return next((r for r in self.select(benchmark, **labels) if usual(r)), None)

    # -- speed --------------------------------------------------------------------------------

    def times_faster(self, contender: str) -> float | None:
        """Ours against a contender, per weight: median of the pairwise ratios."""
        record = self.peer(contender)
        return None if record is None else peer_ratio(record)

    def peer(self, contender: str) -> Record | None:
        """The race with a contender."""
        return next((r for r in self.records("peers") if r["name"] == contender), None)

    def vector_gain(
        self,
        method: str,
        bits: int,
        variant: str = "plain loop, scalar",
        compiled: str = "ours",
    ) -> float | None:
        """Our kernels, as compiled for this processor or a plainer one, against a variant, on one thread."""
        record = self.first("simd", method=method, bits=bits)
        if record is None:
            return None
        runs, ours = (record["seconds"].get(name) for name in (variant, compiled))
        return median_ratio(runs, ours) if runs and ours else None

    def vectors(self) -> str | None:
        """The widest vectors of the processor that `simd` ran on, where it is known."""
        found: str | None = self.results.get("simd", {}).get("machine", {}).get("vectors")
        return found

    def scaling(self, record: Record, contestant: str, threads: int) -> float:
        """Throughput at so many threads over that at one."""
        seconds = record["seconds"]
        gain = median_ratio(seconds[f"{contestant} 1"], seconds[f"{contestant} {threads}"])
        return gain * threads if contestant == "multiply-add" else gain

    # -- whole jobs ---------------------------------------------------------------------------

    def batch_shares(self) -> list[tuple[str, float]]:
        """Peak memory of a job over that of the load-it-all way, the worst method of each size."""
        found: dict[str, float] = {}
        for record in self.records("pipeline"):
            runs = record["processes"]
            if not runs.get("batch") or not runs.get("ours"):
                continue
            share = peak(runs["ours"]) / peak(runs["batch"])
            size = record["labels"]["size"]
            found[size] = max(share, found.get(size, 0.0))
        return list(found.items())

    def fixed_and_per_weight(self) -> list[tuple[str, float, float]]:
        """Processor seconds of a job that do not depend on its size, and nanoseconds per weight.

        The line through the smallest and the largest model, for every method that has both.
        """
        points: dict[str, list[tuple[float, float]]] = {}
        for record in self.records("pipeline"):
            if record["processes"]["ours"]:
                name = f"{record['labels']['method']} {record['labels']['bits']} bits"
                cost = median(run["cpu_seconds"] for run in record["processes"]["ours"])
                points.setdefault(name, []).append((record["weights"], cost))
        found = []
        for name, each in points.items():
            (small, low), (large, high) = min(each), max(each)
            if large > small:
                slope = (high - low) / (large - small)
                found.append((name, low - slope * small, 1e9 * slope))
        return found


def usual(record: Record) -> bool:
    """Groups of 64, asymmetric, or rows where a method has no groups; for super-blocks what a recipe gives that names no layout."""
    labels, facts = record["labels"], METHODS["superblock"]
    if labels["method"] != "superblock":
        return labels["group"] in (0, 64) and not labels["symmetric"]
    given = labels["group"], labels["scale_bits"]
    return given == (facts.groups[labels["bits"]], facts.scale_widths[labels["bits"]])


def peak(runs: list[dict[str, Any]]) -> float:
    """The highest peak of several runs, in bytes."""
    return float(max(run["peak_rss_bytes"] for run in runs))


def peer_ratio(record: Record) -> float:
    """How many times faster ours is, per weight."""
    per_weight: float = record["ours"]["weights"] / record["peer"]["weights"]
    return median_ratio(record["seconds"]["peer"], record["seconds"]["ours"]) * per_weight


def rate(record: Record, contestant: str = "ours") -> float:
    """Weights per second, the median."""
    return float(record["weights"] / median(record["seconds"][contestant]))


def roofline(record: Record) -> float:
    """Our share of the traffic loop's speed: median of the pairwise ratios."""
    return median_ratio(record["seconds"]["traffic"], record["seconds"]["ours"])
