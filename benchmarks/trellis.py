"""Trellis codes: dB against Shannon's bound, and how fast they are made and read.

gaussian  independent standard normal weights
llm-like  the weights that speed is measured on
rotated   the same after a random Hadamard rotation, as trellis codes are meant to get them

Wall time on all threads, and processor time of one: the second holds on a busy machine too.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

import kernels
from benchmarks.accuracy import shannon_db
from benchmarks.context import COLS, Context
from benchmarks.methods import stored_bytes
from benchmarks.results import Result
from benchmarks.synthetic import gaussian, llm_like, widened
from benchmarks.timing import Run, interleave, timed

BITS = (2, 3, 4)


def run(context: Context) -> Result:
    """Every source at every width."""
    result = context.result("trellis")
    rows = 64 if context.quick else 256
    plain = widened(llm_like(rows, COLS, seed=1))
    rotated = plain.copy()
    kernels.rotate(rotated, seed=1, block=kernels.rotation_block(COLS))
    sources = {"gaussian": gaussian(rows, COLS, seed=2), "llm-like": plain, "rotated": rotated}
    for source, x in sources.items():
        for bits in BITS:
            if context.wants(bits):
                _measure(context, result, source, x, bits)
        print(f"  {source}", flush=True)
    return result


def _measure(
    context: Context, result: Result, source: str, x: npt.NDArray[np.float32], bits: int
) -> None:
    encoded = kernels.quantize_trellis(x, dtype="F32", bits=bits, threads=context.threads)
    out = np.empty_like(x)

    def encode(threads: int) -> None:
        kernels.quantize_trellis(x, dtype="F32", bits=bits, threads=threads)

    def decode(threads: int) -> None:
        kernels.dequantize_trellis(
            encoded.codes, encoded.scales, bits=bits, cols=COLS, threads=threads, out=out
        )

    done = interleave(
        {
            "ours": timed(lambda: encode(context.threads)),
            "decode": timed(lambda: decode(context.threads)),
            "encode, one thread's processor time": _processor(lambda: encode(1)),
            "decode, one thread's processor time": _processor(lambda: decode(1)),
        },
        context.rounds,
    )
    for contestant, error in done.errors.items():
        result.fail(f"{source} {bits} bits: {contestant}", error)
    rate = 8 * stored_bytes(encoded) / x.size
    result.add(
        f"{source} {bits} bits",
        {"method": "trellis", "source": source, "bits": bits},
        weights=x.size,
        bits_per_weight=rate,
        sqnr_db=encoded.errors.sqnr_db,
        cosine=encoded.errors.cosine,
        shannon_db=shannon_db(rate),
        seconds=done.seconds,
    )


def _processor(work: Callable[[], object]) -> Run:
    """A run that measures the processor time of this thread."""

    def run() -> float:
        began = time.thread_time()
        work()
        return time.thread_time() - began

    return run
