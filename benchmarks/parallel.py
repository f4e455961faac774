"""Throughput at 1, 2, ... threads, beside what the machine itself gives at as many.

The machine's own limits are measured in the same rounds: multiply-and-add without memory, a copy of
the same matrix, and the traffic loop. A kernel cannot scale better than the one it is bound by.
"""

from __future__ import annotations

from functools import partial

from benchmarks.context import Context
from benchmarks.methods import CORE, stored_bytes
from benchmarks.results import Result
from benchmarks.timing import Run, interleave, timed
from benchmarks.traffic import Traffic, copy, multiply_add

TURNS = 30_000_000


def run(context: Context) -> Result:
    """Methods and the machine at every number of threads."""
    result = context.result("parallel")
    cores = context.cores or tuple(range(1, context.threads + 1))
    x = context.matrix()
    target = x.copy()
    for threads in cores:  # compile before anything is timed
        multiply_add(threads, 1)

    def limits(written: int) -> dict[str, Run]:
        traffic = Traffic(x, written)
        found: dict[str, Run] = {}
        for n in cores:
            found[f"multiply-add {n}"] = timed(partial(multiply_add, n, TURNS))
            found[f"copy {n}"] = timed(partial(copy, x, target, n))
            found[f"traffic {n}"] = timed(partial(traffic.numba, n))
        return found

    for method in CORE:
        for bits in method.bits:
            if not context.wants(bits) or (context.quick and bits in (3, 8)):
                continue
            setting = method.usual(bits)
            written = stored_bytes(setting.run(x, "BF16", context.threads))
            runs = limits(written)
            for n in cores:
                runs[f"ours {n}"] = timed(partial(setting.run, x, "BF16", n))
            done = interleave(runs, context.rounds)
            for contestant, error in done.errors.items():
                result.fail(f"{setting.name}: {contestant}", error)
            result.add(
                setting.name,
                {**setting.labels, "cores": list(cores)},
                weights=x.size,
                copied_bytes=2 * x.nbytes,
                traffic_bytes=x.nbytes + written,
                operations={str(n): n * TURNS * 128 for n in cores},
                seconds=done.seconds,
            )
            print(f"  {setting.name}", flush=True)
    return result
