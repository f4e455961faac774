"""Whole jobs, folder to folder, as processes: `arrowquant quantize` against two others.

    move    a bare mover: the same bytes in, as many out, nothing between
    batch   the load-it-all way with the same kernels

For every size of model, every method. Wall time, processor time and peak memory of each process.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from math import prod
from pathlib import Path
from typing import Any

from benchmarks.context import Context, scratch
from benchmarks.methods import METHODS
from benchmarks.results import Result
from benchmarks.synthetic import transformer, write_model
from benchmarks.timing import clean, interleave

ROOT = Path(__file__).parents[1]


class Process:
    """A command whose runs are measured from outside."""

    def __init__(self, folder: Path, command: list[str], environment: dict[str, str]) -> None:
        self._folder, self._command, self._environment = folder, command, environment
        self.runs: list[dict[str, Any]] = []

    def __call__(self) -> float:
        note, log = self._folder / "peak.json", self._folder / "output.log"
        with log.open("wb") as output:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.peak", str(note), *self._command],
                cwd=ROOT,
                env=os.environ | self._environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=True,
            )
        measured: dict[str, Any] = json.loads(note.read_text())
        if measured.pop("status"):
            raise RuntimeError(clean(log.read_text(errors="replace")[-1000:]))
        self.runs.append(measured)
        return float(measured["seconds"])


def run(context: Context) -> Result:
    """Every size that was asked for."""
    result = context.result("pipeline")
    for size in context.sizes:
        shapes = transformer(size)
        weights = sum(prod(shape) for shape in shapes.values())
        with scratch("pipeline") as folder:
            _need_space(folder, 4 * weights)
            print(f"  {size}: writing the model", flush=True)
            model = write_model(folder / "model" / "model.safetensors", shapes)
            for method in METHODS:
                for bits in (8, 4, 2):
                    if bits in method.bits and context.wants(bits):
                        _job(context, result, folder, model, (size, weights), method.name, bits)
    return result


def _need_space(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < nbytes:
        raise OSError(f"{folder.parent} has {free} bytes free, {nbytes} are needed")


def _job(
    context: Context,
    result: Result,
    folder: Path,
    model: Path,
    size: tuple[str, int],
    method: str,
    bits: int,
) -> None:
    name = f"{size[0]} {method} {bits} bits G64"
    print(f"  {name}", flush=True)
    ours = _ours(folder, model, method, bits)
    ours()  # compiles, brings the model into the page cache, and says how large the artifact is
    ours.runs.clear()
    totals = json.loads((folder / "output.log").read_text())["totals"]
    artifact = totals["artifact_bytes"]
    module = [sys.executable, "-m"]
    target = str(folder / "target")
    move = [*module, "benchmarks.mover", str(model.parent), target, str(artifact)]
    batch = [*module, "benchmarks.batch", str(model), target, method, str(bits)]
    contestants = {"ours": ours, "move": Process(folder, move, {})}
    if 3 * size[1] < 0.5 * result.machine["memory_bytes"]:
        contestants["batch"] = Process(folder, batch, _cache(folder))
    else:
        result.fail(f"{name}: batch", "the checkpoint does not fit into half of this memory")
    done = interleave(contestants, context.rounds)
    for contestant, error in done.errors.items():
        result.fail(f"{name}: {contestant}", error)
    result.add(
        name,
        {"size": size[0], "method": method, "bits": bits},
        weights=size[1],
        source_bytes=model.stat().st_size,
        artifact_bytes=artifact,
        bits_per_weight=totals["bits_per_weight"],
        # The first round, in which the load-it-all way compiles, is not among the seconds either.
        processes={key: process.runs[1:] for key, process in contestants.items()},
        seconds=done.seconds,
    )


def _cache(folder: Path) -> dict[str, str]:
    return {"NUMBA_CACHE_DIR": str(folder / "numba")}


def _ours(folder: Path, model: Path, method: str, bits: int) -> Process:
    program = str(Path(sys.executable).with_name("arrowquant"))
    command = [program, "quantize", str(model.parent), str(folder / "out"), "--replace", "--json"]
    command += ["--bits", str(bits), "--group-size", "64", "--method", method]
    command += ["--no-fallback", "--max-memory", "500MiB"]
    return Process(folder, command, {"ARROWQUANT_DATA_DIR": str(folder / "data")} | _cache(folder))
