"""GPTQ against a loop in torch on the same weights and second moments, interleaved.

4096 x 4096, 4 bits in groups of 128, blocks of 128 columns, damp 0.01. Moments are those of seeded
inputs with 64 strong directions and log-normal channels. Errors of outputs (rho) are all measured by
`kernels.output_sums` on the decoded matrices; "min-max" has the scales of the torch loop, "lsq" ours.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import kernels
from benchmarks.context import Context, scratch
from benchmarks.peers.catalog import TORCH
from benchmarks.peers.client import Peer
from benchmarks.peers.environments import PeerFailed
from benchmarks.results import Result
from benchmarks.synthetic import llm_like, widened
from benchmarks.timing import Run, interleave, timed

SIZE, BITS, GROUP, DAMP, BLOCK = 4096, 4, 128, 0.01, 1024
MODULE = Path(__file__).parent / "peers" / "torch_gptq.py"
OPTIONS: dict[str, Any] = {"dtype": "BF16", "bits": BITS, "group_size": GROUP, "symmetric": False}

Moments = npt.NDArray[np.float32]


def moments_of_inputs(cols: int, seed: int) -> Moments:
    """Second moments of seeded inputs, float32 (cols, cols)."""
    random = np.random.default_rng(seed)
    count = 2 * cols
    x = random.standard_normal((count, 64), np.float32) @ random.standard_normal(
        (64, cols), np.float32
    )
    x += 3 * random.standard_normal((count, cols), np.float32)
    x *= random.lognormal(0.0, 1.0, cols).astype(np.float32)
    return (x.T @ x / np.float32(count)).astype(np.float32)


class Ours:
    """Factor and round; what a record tells of the result."""

    def __init__(
        self, x: npt.NDArray[np.uint16], h: Moments, method: Any, block: int, n: int
    ) -> None:
        self.x, self.h, self.method, self.threads = x, h, method, n
        cols = len(h)
        self.moments = h if not block else np.stack(
            [h[a : a + block, a : a + block] for a in range(0, cols, block)]
        )  # fmt: skip
        self.factor: Any = None
        self.encoded: Any = None

    def run(self) -> None:
        self.prepare()
        self.round()

    def prepare(self) -> None:
        self.factor = kernels.gptq_factor(
            self.moments, cols=len(self.h), damp=DAMP, threads=self.threads
        )

    def round(self) -> None:
        self.encoded = kernels.quantize_gptq(
            self.x, factor=self.factor, method=self.method, threads=self.threads, **OPTIONS
        )

    def decode(self) -> npt.NDArray[np.float32]:
        e = self.encoded
        return kernels.dequantize(
            e.codes, e.scales, e.mins, bits=BITS, cols=len(self.h), group_size=GROUP
        )


def run(context: Context) -> Result:
    """Ours with both kinds of scales, in full and in blocks, and the torch loop."""
    result = context.result("gptq")
    size = 1024 if context.quick else SIZE
    x, h = llm_like(size, size, seed=2), moments_of_inputs(size, 3)
    w, n = widened(x), context.threads
    ours = {
        "ours": Ours(x, h, "minmax", 0, n),
        "ours, lsq": Ours(x, h, "lsq", 0, n),
        f"ours, lsq, blocks of {min(BLOCK, size)}": Ours(x, h, "lsq", min(BLOCK, size), n),
    }
    runs: dict[str, Run] = {name: timed(job.run) for name, job in ours.items()}
    runs |= {"factor": timed(ours["ours"].prepare), "rounding": timed(ours["ours"].round)}
    with scratch("gptq") as folder:
        peer, decoded = _peer(result, folder, x, h, n), folder / "decoded.npy"
        if peer is not None:
            runs["peer"] = peer.run
        done = interleave(runs, context.rounds)
        for name, error in done.errors.items():
            result.fail(name, error)
        rho = partial(_rho, w, h, n)
        errors = {name: rho(job.decode()) for name, job in ours.items()}
        errors |= {
            f"{method}, no GPTQ": rho(_plain(x, h, method, n)) for method in ("minmax", "lsq")
        }
        if peer is not None and "peer" not in done.errors:
            peer.measure()
            errors["peer"] = rho(np.load(decoded))
            peer.close()
    result.add(
        f"gptq {size} x {size}, {BITS} bits G{GROUP}",
        {"bits": BITS, "group": GROUP, "damp": DAMP, "size": size},
        weights=x.size,
        seconds=done.seconds,
        rho=errors,
        bytes={"full": kernels.gptq_bytes(size), "blocks": kernels.gptq_bytes(size, BLOCK)},
    )
    return result


def _peer(
    result: Result, folder: Path, x: npt.NDArray[np.uint16], h: Moments, threads: int
) -> Peer | None:
    """The torch loop, ready to run."""
    np.save(folder / "x.npy", x)
    np.save(folder / "moments.npy", h)
    options = {
        "bits": BITS, "group": GROUP, "damp": DAMP, "moments": str(folder / "moments.npy"),
        "decoded": str(folder / "decoded.npy"),
    }  # fmt: skip
    try:
        peer = Peer(TORCH.python(), MODULE)
        peer.prepare(folder / "x.npy", len(x), threads, options)
    except PeerFailed as error:
        result.fail("torch loop", str(error))
        return None
    return peer


def _plain(
    x: npt.NDArray[np.uint16], h: Moments, method: Any, threads: int
) -> npt.NDArray[np.float32]:
    weights = np.diag(h).copy() if method == "lsq" else None
    e = kernels.quantize(x, method=method, weights=weights, threads=threads, **OPTIONS)
    return kernels.dequantize(
        e.codes, e.scales, e.mins, bits=BITS, cols=x.shape[1], group_size=GROUP
    )


def _rho(w: npt.NDArray[np.float32], h: Moments, threads: int, v: npt.NDArray[np.float32]) -> float:
    return kernels.output_sums(w, np.ascontiguousarray(v), h, threads).rho
