"""What time-aware and spatial quantization add to a job: the same calibrated job with and without each.

    calibrated   errors of weights weighed by a calibration file; all others do this too
    time-aware   and `activations`: times cut into groups, ranges fitted, activations.arrow written
    smoothed     and `smoothing`: the best strength for each tensor, columns multiplied
    both         all of it

Processes of `arrowquant quantize` in turn, with a seeded diffusion transformer and a calibration file of it: wall
and processor time of each. `fold` is the command that does before a job what `smoothing` does in it.

    python -m benchmarks diffusion_cost [--model-size 600M]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from arrowquant.calibration.accumulate import Accumulator
from arrowquant.calibration.digests import of_source
from arrowquant.calibration.index import Index, Input, Weight
from arrowquant.calibration.writer import CalibrationWriter
from benchmarks.context import Context, scratch
from benchmarks.pipeline import MODEL, Process
from benchmarks.results import Result
from benchmarks.synthetic import diffusion_transformer, write_model
from benchmarks.timing import interleave

#: method, bits, time bins of the calibration file, whether the larger models are worth it
JOBS = (("lsq", 4, 20, True), ("lsq", 4, 50, False), ("superblock", 2, 20, False))
VECTORS = 32  # of each time bin
KEPT = 64
NONE = {"activations": {"mode": "none"}}
CONTESTANTS: dict[str, dict[str, Any]] = {
    "calibrated": NONE,
    "time-aware": {"activations": {"bits": 8}},
    "smoothed": NONE | {"smoothing": {"activation_bits": 8}},
    "both": {"activations": {"bits": 8}, "smoothing": {}},
}
INPUTS = {
    "attn1.to_q": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn1.to_out.0": ("attn1.to_out.0",),
    "ff.net.0.proj": ("ff.net.0.proj",),
    "ff.net.2": ("ff.net.2",),
    "norm1.linear": ("norm1.linear",),
}


def run(context: Context) -> Result:
    """Every size that was asked for but the largest, which has no such transformer."""
    result = context.result("diffusion_cost")
    for size in (size for size in context.sizes if size != "7B"):
        with scratch("diffusion-cost") as folder:
            shapes = diffusion_transformer(size)
            print(f"  {size}: writing the model", flush=True)
            write_model(folder / "model" / MODEL, shapes)
            config = {"_class_name": "DiTTransformer2DModel"}
            (folder / "model" / "config.json").write_text(json.dumps(config))
            for method, bits, times, large in JOBS:
                if context.wants(bits) and (large or size == context.sizes[0]):
                    _race(context, result, folder, size, (method, bits, times))
    return result


def _race(
    context: Context, result: Result, folder: Path, size: str, job: tuple[str, int, int]
) -> None:
    method, bits, times = job
    name = f"{size} {method} {bits} bits, {times} time bins"
    print(f"  {name}", flush=True)
    shapes = diffusion_transformer(size)
    file = folder / f"{times}.calib.arrow"
    if not file.exists():
        calibrate(folder / "model", shapes, times, file)
    recipe = {"method": method, "bits": bits, "fallback": {"enabled": False}}
    environment = {
        "ARROWQUANT_DATA_DIR": str(folder / "data"),
        "NUMBA_CACHE_DIR": str(folder / "numba"),
    }
    program = str(Path(sys.executable).with_name("arrowquant"))
    runs = {}
    for contestant, more in CONTESTANTS.items():
        path = folder / f"{contestant}.json"
        path.write_text(json.dumps(recipe | more))
        words = ["quantize", str(folder / "model"), str(folder / "out"), "--replace", "--json"]
        words += ["--recipe", str(path), "--calibration", str(file)]
        runs[contestant] = Process(folder, [program, *words], environment)
    words = ["fold", str(folder / "model"), str(folder / "folded"), "--replace"]
    words += ["--calibration", str(file), "--any-factor"]
    runs["fold"] = Process(folder, [program, *words], environment)
    # The first round compiles and is not among the seconds.
    done = interleave(runs, context.rounds)
    for contestant, failure in done.errors.items():
        result.fail(f"{name}: {contestant}", failure)
    labels = {"size": size, "method": method, "bits": bits, "times": times}
    result.add(
        name,
        labels,
        weights=sum(prod(shape) for shape in shapes.values()),
        calibration_bytes=file.stat().st_size,
        processes={key: process.runs[1:] for key, process in runs.items()},
        seconds=done.seconds,
    )


def calibrate(model: Path, shapes: dict[str, tuple[int, int]], times: int, path: Path) -> None:
    """A calibration file of the transformer: what enters its blocks, whose size and outliers go with time."""
    random = np.random.default_rng(times)
    made: dict[int, Accumulator] = {}
    entries: list[Input] = []
    weights: dict[str, Weight] = {}
    bound = of_source(model, shapes)
    for name, feeds, cols in _inputs(shapes):
        if cols not in made:
            made[cols] = _seen(random, cols, times)
        entries.append(replace(made[cols].entry(), id=name))
        weights |= {one: Weight(one, name, bound[one]) for one in feeds}
    index = Index(
        inputs=tuple(entries),
        weights=weights,
        model="diffusion-transformer",
        tool="benchmarks",
        domain="timestep",
        edges=tuple(np.linspace(0, 1000, times + 1).tolist()),
        branches=("",),
        samples=VECTORS * times,
        keep=KEPT,
        privacy="samples",
        meta={},
    )
    with CalibrationWriter(path, index) as writer:
        for entry in entries:
            seen = made[entry.n]
            writer.write(seen.stats(), (), seen.samples())


def _inputs(shapes: dict[str, tuple[int, int]]) -> Iterator[tuple[str, list[str], int]]:
    """Inputs, the weights that each feeds, their channels."""
    blocks = dict.fromkeys(".".join(name.split(".")[:2]) for name in shapes)
    for block in blocks:
        for name, feeds in INPUTS.items():
            weights = [f"{block}.{feed}.weight" for feed in feeds]
            yield f"{block}.{name}", weights, shapes[weights[0]][1]


def _seen(random: np.random.Generator, cols: int, times: int) -> Accumulator:
    found = Accumulator("", cols, "none", 0, KEPT, 0)
    gains = random.lognormal(0.0, 0.5, cols)
    gains[:: max(1, cols // 12)] *= 20
    for time in range(times):
        x = random.standard_normal((VECTORS, cols)) * gains * np.exp(-3 * time / times)
        found.add(x.astype(np.float32), np.full(VECTORS, time, np.int32), "")
    return found


if __name__ == "__main__":
    from benchmarks.__main__ import alone

    alone("diffusion_cost")
