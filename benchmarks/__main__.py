"""Measure: `python -m benchmarks NAME... | --all`, raw JSON to benchmarks/results.

    speed        every method and setting against the machine's bandwidth
    peers        other quantizers on the same matrix, installed here in environments of their own
    simd         vectorized and not, for this processor and plainer ones
    loops        instructions per weight in the inner loops, for one fixed processor
    parallel     1, 2, ... threads, and what the machine gives at as many
    switches     what each part of the engine brings: the same work with one of them off
    gptq         second moments of inputs, against a loop in torch
    cold_start   from a new process to the first tile
    accuracy     dB per bit against Shannon's bound; layers of a trained model
    trellis      dB of trellis codes against the bound, and how fast they are made and read
    end_metrics  what quantization costs three small real diffusion models: image, text, audio
    profiles     what edge, local and cloud make of those models
    diffusion_cost  what ranges by time and smoothing add to a job's time
    io           our stores against a bare mover: folder and S3
    pipeline     whole jobs against copying the same bytes and the load-it-all way
    pipeline_s3  the same from bucket to bucket
    load         1,000 jobs from 50 clients at once, and 500 open event streams
    memory       a 4 GB model with a 1 GB tensor within 500 MiB
    batches      10,000 jobs in one upload: time, memory, claims, cancelling

One that cannot be measured is printed as failed, kept as failed, and the command ends with 1.
With --compare it ends with 2 when something became worse than an older result by the threshold.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from workers import kernel_cache

if TYPE_CHECKING:
    from benchmarks.context import Context
    from benchmarks.results import Result

# Their modules and functions; imported when asked for, after the kernels' cache is chosen.
BENCHMARKS = {
    "speed": ("speed", "run"),
    "peers": ("speed", "run_peers"),
    "simd": ("speed", "run_simd"),
    "loops": ("loops_in_assembly", "run"),
    "parallel": ("parallel", "run"),
    "switches": ("switches", "run"),
    "gptq": ("gptq", "run"),
    "cold_start": ("cold_start", "run"),
    "accuracy": ("accuracy", "run"),
    "trellis": ("trellis", "run"),
    "end_metrics": ("end_metrics", "run"),
    "profiles": ("profiles", "run"),
    "diffusion_cost": ("diffusion_cost", "run"),
    "io": ("io", "run"),
    "pipeline": ("pipeline", "run"),
    "pipeline_s3": ("pipeline", "run_s3"),
    "load": ("load", "run"),
    "memory": ("memory", "run"),
    "batches": ("batches", "run"),
}
FAILED, WORSE = 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; the exit status."""
    # The servers here are on this machine.
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
    parser = _parser()
    given = parser.parse_args(arguments)
    names = list(BENCHMARKS) if given.all else given.names
    if not names and not given.generate_charts and not given.compare:
        parser.error("name a benchmark, or --all")
    kernel_cache.choose(Path(__file__).parents[1] / ".venv-bench" / "numba")
    from benchmarks import results

    folder = given.output_dir or results.FOLDER
    before = {path: results.load(path) for path in given.compare}
    status = 0
    for name in names:
        print(f"{name}:", flush=True)
        result = _run(name)(_context(given, folder))
        path = result.write(folder)
        failed = f", {len(result.failures)} FAILED" if result.failures else ""
        print(f"  {len(result.records)} records{failed}: {path}", flush=True)
        status = FAILED if result.failures else status
    if given.generate_charts:
        from benchmarks.report import main as write_report

        beside = ["--docs", str(folder)] if given.output_dir else []
        write_report(["--results", str(folder), *beside])
    for path, old in before.items():
        status = _compared(path, old, folder, given.threshold) or status
    return status


def _run(name: str) -> Callable[[Context], Result]:
    module, function = BENCHMARKS[name]
    found: Callable[[Context], Result] = getattr(
        importlib.import_module(f"benchmarks.{module}"), function
    )
    return found


def _context(given: argparse.Namespace, folder: Path) -> Context:
    from benchmarks.context import Context

    sizes = given.model_size or (["100M"] if given.quick else ["100M", "600M"])
    if given.all and not given.quick and not given.model_size:
        sizes = ["100M", "600M", "7B"]
    return Context(
        output=folder,
        quick=given.quick,
        bits=tuple(given.bit_width),
        cores=tuple(given.cores),
        sizes=tuple(sizes),
        rounds=given.rounds or (3 if given.quick else 5),
        s3=not given.no_s3,
    )


def _compared(path: Path, old: dict[str, object], folder: Path, threshold: float) -> int:
    from benchmarks import compare, results

    new = results.load(folder / f"{old['benchmark']}.json")
    worse = compare.regressions(old, new, threshold)
    for change in compare.changes(old, new):
        print(f"  {'WORSE ' if change in worse else ''}{change}")
    print(f"{path.name}: {len(worse)} worse by more than {threshold:.0%}")
    return WORSE if worse else 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("names", nargs="*", choices=[*BENCHMARKS, []], metavar="NAME", help="what to measure")
    add("--all", action="store_true", help="everything, at every size")
    add("--model-size", action="append", choices=["100M", "600M", "7B"], help="repeatable")
    add("--bit-width", type=_numbers, default=[], metavar="2,4,8", help="only these widths")
    add("--cores", type=_numbers, default=[], metavar="1,2", help="numbers of threads")
    add("--rounds", type=int, metavar="N", help="interleaved rounds; 5, or 3 with --quick")
    add("--output-dir", type=Path, metavar="DIR", help="where results go and are compared")
    add("--quick", action="store_true", help="smaller and fewer: shows that it runs")
    add("--no-s3", action="store_true", help="leave out what needs an S3 server")
    add(
        "--generate-charts",
        action="store_true",
        help="write the report and its charts after, to docs or DIR",
    )
    add("--compare", type=Path, action="append", default=[], metavar="OLD.json", help="repeatable")
    add("--threshold", type=float, default=0.1, help="how much worse is too much; 0.1 is 10 %%")
    return parser


def alone(*names: str, s3: tuple[str, ...] = ()) -> None:
    """The command of a module: its benchmarks, those of `s3` only with --s3."""
    words = [word for word in sys.argv[1:] if word != "--s3"]
    wanted = [*names, *s3] if "--s3" in sys.argv else [*names]
    sys.exit(main([*wanted, *words, *([] if "--s3" in sys.argv else ["--no-s3"])]))


if __name__ == "__main__":
    sys.exit(main())
