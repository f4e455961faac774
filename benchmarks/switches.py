"""What each part of the engine brings: the same work with one of them switched off.

kernels  processes with the same matrix, in turn: without a second thread, without asking for memory
         ahead, with new memory for every result
jobs     `arrowquant quantize` of a synthetic model, folder to folder: with one thread for the kernels,
         and without reading, quantizing and writing at once

What the vectors bring is measured by `simd`, what compiled kernels on disk bring by `cold_start`.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.context import Context, scratch
from benchmarks.methods import BY_NAME, Setting
from benchmarks.peers.catalog import HERE, OURS
from benchmarks.peers.client import Peer
from benchmarks.peers.environments import PeerFailed
from benchmarks.pipeline import MODEL, Process
from benchmarks.results import Result
from benchmarks.synthetic import transformer, write_model
from benchmarks.timing import Run, interleave

SETTINGS = (("minmax", 4), ("minmax", 2), ("lsq", 4), ("superblock", 4), ("superblock", 2))
# Options of the process that runs our kernels; the first is how they are meant to be used.
KERNELS: dict[str, dict[str, Any]] = {
    "ours": {"afresh": False},
    "one thread": {"afresh": False, "cores": 1},
    "new memory for every result": {"afresh": True},
    "no prefetch": {"afresh": False, "prefetch": False},
}
# What only methods have that can write over an earlier result.
ENGINE = {"new memory for every result", "no prefetch"}
JOBS = (("minmax", 4), ("lsq", 4), ("superblock", 2))


def run(context: Context) -> Result:
    """Kernels, then jobs."""
    result = context.result("switches")
    with scratch("switches") as folder:
        file = folder / "matrix.npy"
        np.save(file, context.matrix())
        for method, bits in SETTINGS:
            if context.wants(bits):
                _kernels(context, result, file, folder, BY_NAME[method].usual(bits))
    with scratch("switches-jobs") as folder:
        _jobs(context, result, folder)
    return result


def _kernels(context: Context, result: Result, file: Path, folder: Path, setting: Setting) -> None:
    print(f"  {setting.name}", flush=True)
    plain = {"method": setting.method.name, "bits": setting.bits, "group": setting.group}
    runs: dict[str, Run] = {}
    with ExitStack() as stack:
        for name, options in KERNELS.items():
            if name in ENGINE and not setting.method.reuses:
                continue
            # What is compiled without a part is kept apart, also from other settings.
            cache = {
                "NUMBA_CACHE_DIR": str(folder / (setting.name if "prefetch" in options else "on"))
            }
            try:
                peer = stack.enter_context(Peer(OURS.python(), HERE / "ours.py", cache))
                peer.prepare(file, context.rows, context.threads, plain | options)
            except PeerFailed as error:
                result.fail(f"{setting.name}: {name}", str(error))
                continue
            runs[name] = peer.run
        done = interleave(runs, context.rounds)
    for name, failure in done.errors.items():
        result.fail(f"{setting.name}: {name}", failure)
    labels = {"what": "kernel", **setting.labels}
    weights = context.rows * np.load(file, mmap_mode="r").shape[1]
    result.add(setting.name, labels, weights=weights, seconds=done.seconds)


def _jobs(context: Context, result: Result, folder: Path) -> None:
    size = context.sizes[0]
    shapes = transformer(size)
    write_model(folder / "model" / MODEL, shapes)
    program = [str(Path(sys.executable).with_name("arrowquant"))]
    for method, bits in JOBS:
        if not context.wants(bits):
            continue
        name = f"{size} {method} {bits} bits"
        print(f"  {name}", flush=True)
        words = ["quantize", str(folder / "model"), str(folder / "out"), "--replace", "--json"]
        words += ["--method", method, "--bits", str(bits), "--no-fallback"]
        environment = {
            "ARROWQUANT_DATA_DIR": str(folder / "data"),
            "NUMBA_CACHE_DIR": str(folder / "numba"),
        }
        commands = {
            "ours": [*program, *words],
            "one thread": [*program, *words, "--threads", "1"],
            "no overlap": [sys.executable, "-m", "benchmarks.without", "overlap", *words],
        }
        runs = {key: Process(folder, command, environment) for key, command in commands.items()}
        done = interleave(runs, context.rounds)
        for contestant, failure in done.errors.items():
            result.fail(f"{name}: {contestant}", failure)
        result.add(
            name,
            {"what": "job", "size": size, "method": method, "bits": bits},
            weights=sum(prod(shape) for shape in shapes.values()),
            processes={key: process.runs[1:] for key, process in runs.items()},
            seconds=done.seconds,
        )
