"""Measure rows on a model, in an environment with torch: a line of JSON for each row as it is done.

    python -m benchmarks.models.evaluate MODEL --out FILE [--samples N] [--rows REGEX]... [--threads N]

Rows that FILE has already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import arrowquant.torch
from benchmarks.models import activations, datasets, folder, ours, reference
from benchmarks.models.rows import Row, rows
from benchmarks.models.sampled import SampledTask
from benchmarks.models.written import WrittenTask
from service.domain.engine import versions
from service.domain.smoothing import Aggregate
from workers.spatial import fold as folding
from workers.spatial.estimate import Target

Task = SampledTask | WrittenTask
SAMPLES = {"dit-digits": 1000, "dream-glosses": 100, "dit-speech": 500}
CALIBRATION = {"dit-digits": 400, "dream-glosses": 128, "dit-speech": 400}
KEPT = 256  # vectors of each input that a calibration file keeps, for `auto` to judge by


@dataclass
class Variant:
    """A model's weights before quantization, in a folder: as trained, or folded by `arrowquant fold`."""

    source: Path
    state: dict[str, Tensor]
    observed: activations.Observed | None = None
    calibrations: dict[tuple[str, bool], Path] = field(default_factory=dict)
    quantized: dict[str, ours.Quantized] = field(default_factory=dict)


class Bench:
    """A model that rows are tried on."""

    def __init__(self, name: str, task: Task, transformer: Path, scratch: Path) -> None:
        self.name = name
        self.task = task
        self.scratch = scratch
        self._variants = {"": Variant(transformer, task.state)}

    def run(self, row: Row) -> dict[str, Any]:
        """A row's rates and metrics."""
        began = time.process_time()
        acts = row.activations or {}
        variant = self._variant(acts.get("fold"))
        weights = self._weights(variant, row)
        quantized_s = time.process_time() - began
        bare = weights is None or row.weights is None
        model = self.task.model(variant.state if weights is None or bare else weights.state)
        told: dict[str, Any] = {}
        if weights is not None and weights.table is not None and "table" in acts:
            table = activations.Table(model, weights.table, weights.divisors)
            told["table"] = dict(weights.table.head)
            measured = self.task.measure(model, lambda t: table.at(self.task.time(t)))
        else:
            if acts:
                ranges = self._observed(variant).ranges
                activations.by_rule(model, ranges, acts["mode"], acts["bits"])
            measured = self.task.measure(model)
        rates: dict[str, Any] = {"bits_per_weight": 16.0, "bits_in_all": 16.0}
        if weights is not None and not bare:
            rates = {
                key: getattr(weights, key)
                for key in ("bits_per_weight", "bits_in_all", "bits_on_disk", "cosine", "sqnr_db")
            }
        cpu = {"quantize_cpu_s": quantized_s, "cpu_s": time.process_time() - began}
        return rates | measured | told | cpu

    def _variant(self, fold: dict[str, Any] | None) -> Variant:
        """As trained, or folded for what it will be quantized to: as `arrowquant fold --any-factor` does."""
        key = json.dumps(fold, sort_keys=True) if fold else ""
        if fold and key not in self._variants:
            plain, out = self._variants[""], self.scratch / f"folded-{len(self._variants)}"
            options = folding.Options(
                aggregate=Aggregate(fold["aggregate"]),
                exact=False,
                target=Target(fold["bits"], 64, fold["activation_bits"]),
            )
            made = folding.plan(plain.source, self._calibration(plain), options)
            folding.write(plain.source, out, made)
            self._variants[key] = Variant(out, folder.read_shards(out))
        return self._variants[key]

    def _observed(self, variant: Variant) -> activations.Observed:
        """What the full-precision model's linears see, on training data."""
        if variant.observed is None:
            model = self.task.model(variant.state)
            with activations.observing(model) as found:
                self.task.calibrate(model, CALIBRATION[self.name])
            variant.observed = found
        return variant.observed

    def _weights(self, variant: Variant, row: Row) -> ours.Quantized | None:
        """What a job or another's method makes of the weights, and with it the table of activations."""
        how = row.job
        if how is None:
            return None
        key = json.dumps(how, sort_keys=True)
        if key not in variant.quantized:
            variant.quantized = {key: self._quantize(variant, how)}  # the last one only
        return variant.quantized[key]

    def _quantize(self, variant: Variant, weights: dict[str, Any]) -> ours.Quantized:
        if weights["by"] == "reference":
            return self._by_reference(variant, weights)
        recipe = weights["recipe"]
        if weights["by"] == "ours":
            recipe = ours.everywhere(list(variant.state), recipe)
        gptq = "gptq" in recipe.get("calibration", {}).get("method", "")
        if not weights.get("calibrated"):
            return ours.quantize(variant.source, variant.state, recipe, None)
        sensitive = bool(weights.get("sensitivities"))
        known = self._calibration(variant, "full" if gptq else "none", sensitive=sensitive)
        return ours.quantize(variant.source, variant.state, recipe, known)

    def _calibration(
        self, variant: Variant, moments: str = "none", *, sensitive: bool = False
    ) -> Path:
        """What our own capture keeps of a run over training data, as a file; with sensitivities or without."""
        if (moments, sensitive) not in variant.calibrations:
            model = self.task.model(variant.state)
            file = self.scratch / f"{len(list(self.scratch.glob('*.arrow')))}.calib.arrow"
            options: dict[str, Any] = {"edges": self.task.edges, "domain": self.task.domain}
            options["moments"] = moments
            with arrowquant.torch.capture(
                model, weights=variant.source, keep=KEPT, **options
            ) as seen:
                self.task.calibrate(
                    model, CALIBRATION[self.name], lambda t: seen.at(self.task.time(t))
                )
                if sensitive:
                    self.task.sensitivities(model, seen)
            seen.save(file)
            variant.calibrations[moments, sensitive] = file
        return variant.calibrations[moments, sensitive]

    def _by_reference(self, variant: Variant, weights: dict[str, Any]) -> ours.Quantized:
        method, bits, group = (weights[key] for key in ("method", "bits", "group"))
        state: dict[str, Tensor] = {}
        stored: dict[str, float] = {}
        for name, w in variant.state.items():
            if not ours.is_linear(name):
                state[name], stored[name] = w, 16.0 * w.numel()
                continue
            if method == "gptq":
                moments = self._observed(variant).moments[name.removesuffix(".weight")]
                state[name] = reference.gptq(w, bits, group, moments)
            else:
                state[name] = getattr(reference, method)(w, bits, group)
            stored[name] = w.numel() * reference.bits_per_weight(bits, group, w.shape[1])
        return ours.account(variant.state, state, stored)


def bench(name: str, samples: int | None, seed: int, scratch: Path) -> Bench:
    """The committed model of this name and its data; `scratch` for what is made of it."""
    path = folder.MODELS / name
    count = samples or SAMPLES[name]
    if name == "dream-glosses":
        written = WrittenTask(path, datasets.text(), samples=count, seed=seed)
        return Bench(name, written, path, scratch)
    pictures = datasets.images() if name == "dit-digits" else datasets.speech()
    task = SampledTask(path, pictures, samples=count, seed=seed)
    return Bench(name, task, path / "transformer", scratch)


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(SAMPLES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", action="append", default=[], help="repeatable, in this order")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory(prefix="arrowquant-models-") as scratch:
        failed = _measure(given, bench(given.model, given.samples, given.seed, Path(scratch)))
    sys.exit(failed)


def _measure(given: argparse.Namespace, tried: Bench) -> bool:
    """Row by row; whether one has failed."""
    done = _done(given.out)
    patterns = given.rows or [".*"]
    chosen = [row for pattern in patterns for row in rows() if re.search(pattern, row.name)]
    wanted = list(dict.fromkeys(row.name for row in chosen))
    # The reference of all others is always drawn, so that they have something to be held against.
    first = next(rows())
    failed = False
    named = {row.name: row for row in chosen}
    for row in [first, *(named[name] for name in wanted if name not in done | {first.name})]:
        line: dict[str, Any] = {
            "model": given.model,
            "name": row.name,
            "family": row.family,
            "bits": row.bits,
            "weights": row.weights,
            "activations": row.activations,
            "seed": given.seed,
            "versions": versions(),
        }
        try:
            line |= tried.run(row)
        except Exception as error:  # noqa: BLE001 - kept, and shown as failed
            line["error"] = f"{type(error).__name__}: {error}"
            failed = True
        if row.name not in done:
            with given.out.open("a") as stream:
                stream.write(json.dumps(line) + "\n")
        print(json.dumps(line)[:400], flush=True)
    return failed


def _done(path: Path) -> set[str]:
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["name"] for line in lines if "error" not in line}


if __name__ == "__main__":
    main()
