"""Measure rows on a model, in an environment with torch: a line of JSON for each row as it is done.

    python -m benchmarks.models.evaluate MODEL --out FILE [--samples N] [--rows REGEX] [--threads N]

Rows that FILE has already are not measured again.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import activations, datasets, folder, ours, reference
from benchmarks.models.rows import Row, rows
from benchmarks.models.sampled import SampledTask
from benchmarks.models.written import WrittenTask
from service.domain.engine import versions

Task = SampledTask | WrittenTask
SAMPLES = {"dit-digits": 1000, "dream-glosses": 100, "dit-speech": 500}
CALIBRATION = {"dit-digits": 400, "dream-glosses": 128, "dit-speech": 400}
CALIBRATION_STEPS = 40


class Bench:
    """A model that rows are tried on."""

    def __init__(self, name: str, task: Task, transformer: Path) -> None:
        self.name = name
        self.task = task
        self.transformer = transformer
        self._observed: activations.Observed | None = None
        self._quantized: dict[str, ours.Quantized] = {}

    def run(self, row: Row) -> dict[str, Any]:
        """A row's rates and metrics."""
        began = time.process_time()
        weights = self._weights(row)
        quantized_s = time.process_time() - began
        model = self.task.model(self.task.state if weights is None else weights.state)
        if row.activations:
            mode, bits = row.activations["mode"], row.activations["bits"]
            quantizer = activations.Quantizer(model, self.observed, mode, bits)
            measured = self.task.measure(model, quantizer.at)
        else:
            measured = self.task.measure(model)
        rates: dict[str, Any] = {"bits_per_weight": 16.0, "bits_in_all": 16.0}
        if weights is not None:
            rates = {
                key: getattr(weights, key)
                for key in ("bits_per_weight", "bits_in_all", "cosine", "sqnr_db")
            }
        cpu = {"quantize_cpu_s": quantized_s, "cpu_s": time.process_time() - began}
        return rates | measured | cpu

    @property
    def observed(self) -> activations.Observed:
        """What the full-precision model's linears see, on training data."""
        if self._observed is None:
            model = self.task.model(self.task.state)
            with activations.observing(model) as found:
                self.task.calibrate(model, CALIBRATION[self.name], found.at)
            self._observed = found
        return self._observed

    def _weights(self, row: Row) -> ours.Quantized | None:
        if row.weights is None:
            return None
        key = json.dumps(row.weights, sort_keys=True)
        if key not in self._quantized:
            self._quantized = {key: self._quantize(row.weights)}  # the last one only
        return self._quantized[key]

    def _quantize(self, weights: dict[str, Any]) -> ours.Quantized:
        if weights["by"] == "reference":
            return self._by_reference(weights["method"], weights["bits"], weights["group"])
        recipe = weights["recipe"]
        if weights["by"] == "ours":
            recipe = ours.everywhere(list(self.task.state), recipe)
        return ours.quantize(self.transformer, self.task.state, recipe)

    def _by_reference(self, method: str, bits: int, group: int) -> ours.Quantized:
        state: dict[str, Tensor] = {}
        stored: dict[str, float] = {}
        for name, w in self.task.state.items():
            if not ours.is_linear(name):
                state[name], stored[name] = w, 16.0 * w.numel()
                continue
            if method == "gptq":
                moments = self.observed.moments[name.removesuffix(".weight")]
                state[name] = reference.gptq(w, bits, group, moments)
            else:
                state[name] = getattr(reference, method)(w, bits, group)
            stored[name] = w.numel() * reference.bits_per_weight(bits, group, w.shape[1])
        return ours.account(self.task.state, state, stored)


def bench(name: str, samples: int | None, seed: int) -> Bench:
    """The committed model of this name and its data."""
    path = folder.MODELS / name
    count = samples or SAMPLES[name]
    if name == "dream-glosses":
        return Bench(name, WrittenTask(path, datasets.text(), samples=count, seed=seed), path)
    pictures = datasets.images() if name == "dit-digits" else datasets.speech()
    task = SampledTask(path, pictures, samples=count, seed=seed)
    return Bench(name, task, path / "transformer")


def main() -> None:
    """Measure what is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", choices=sorted(SAMPLES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--samples", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", default=".*")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    done = _done(given.out)
    tried = bench(given.model, given.samples, given.seed)
    wanted = [row for row in rows() if re.search(given.rows, row.name)]
    # The reference of all others is always drawn, so that they have something to be held against.
    first = next(rows())
    failed = False
    for row in [first, *(row for row in wanted if row.name not in done and row != first)]:
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
    sys.exit(failed)


def _done(path: Path) -> set[str]:
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {line["name"] for line in lines if "error" not in line}


if __name__ == "__main__":
    main()
