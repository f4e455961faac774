"""Throughput of the kernels: against the machine's bandwidth, and against peers.

speed     every method at every setting, interleaved with loops that only move the same bytes
peers     every contender, interleaved with our method of its kind at the same width
simd      our kernels as compiled for this processor, for plainer ones, and a plain scalar loop
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.context import Context, scratch
from benchmarks.methods import BY_NAME, CORE, Setting, settings, speed_matters, stored_bytes
from benchmarks.peers.catalog import CONTENDERS, HERE, Contender
from benchmarks.peers.client import Peer
from benchmarks.peers.environments import PeerFailed
from benchmarks.results import Result
from benchmarks.timing import interleave, rested, timed
from benchmarks.traffic import Traffic

Matrix = npt.NDArray[np.uint16]

PEER_SECONDS = 1.5  # a slow peer gets so many rows that a run takes about this long
PROBE_ROWS = 32
AT_LEAST_S = 1.0  # of rounds of a setting


def run(context: Context) -> Result:
    """Our settings against the roofline."""
    result = context.result("speed")
    x = context.matrix()
    for setting in settings(context.bits):
        if not speed_matters(setting):
            continue
        if context.quick and (setting.symmetric or setting.group == 128):
            continue
        try:
            _against_traffic(context, result, x, setting)
        except Exception as error:  # noqa: BLE001 - kept and printed; the rest goes on
            result.fail(setting.name, f"{type(error).__name__}: {error}")
    return result


def _against_traffic(context: Context, result: Result, x: Matrix, setting: Setting) -> None:
    encoded = setting.run(x, "BF16", context.threads)
    written = stored_bytes(encoded)
    traffic = Traffic(x, written)
    done = interleave(
        {
            "ours": timed(lambda: setting.run(x, "BF16", context.threads, encoded)),
            "traffic": timed(lambda: traffic.numba(context.threads)),
            "traffic_numpy": timed(lambda: traffic.numpy(context.threads)),
        },
        context.rounds,
        at_least_s=AT_LEAST_S,
    )
    _note(result, setting.name, done.errors)
    result.add(
        setting.name,
        setting.labels,
        weights=x.size,
        read_bytes=x.nbytes,
        written_bytes=written,
        traffic_bytes=traffic.nbytes,
        bits_per_weight=8 * written / x.size,
        sqnr_db=encoded.errors.sqnr_db,
        cosine=encoded.errors.cosine,
        seconds=done.seconds,
    )


def _note(result: Result, name: str, errors: Mapping[str, str]) -> None:
    for contestant, error in errors.items():
        result.fail(f"{name}: {contestant}", error)


def run_peers(context: Context, contenders: tuple[Contender, ...] = CONTENDERS) -> Result:
    """Each contender in turn against our own kernels."""
    result = context.result("peers")
    x = context.matrix()
    versions: dict[str, Any] = {}
    with scratch("peers") as folder:
        file = folder / "matrix.npy"
        np.save(file, x)
        for contender in contenders:
            if not context.wants(contender.bits):
                continue
            print(f"  {contender.name}", flush=True)
            try:
                _against(context, result, x, file, contender, versions)
            except PeerFailed as error:
                result.fail(contender.name, str(error))
    result.machine["peers"] = versions
    return result


def _against(
    context: Context,
    result: Result,
    x: Matrix,
    file: Path,
    contender: Contender,
    versions: dict[str, Any],
) -> None:
    ours = BY_NAME[contender.against].usual(contender.bits, contender.group)
    with Peer(contender.environment.python(), contender.path) as peer:
        versions.setdefault(contender.peer, peer.versions())
        rows = _affordable_rows(context, peer, file, len(x), contender)
        given = peer.prepare(file, rows, context.threads, contender.options)
        earlier = ours.run(x, "BF16", context.threads)
        work = timed(lambda: ours.run(x, "BF16", context.threads, earlier))
        done = interleave({"ours": rested(work), "peer": rested(peer.run)}, context.rounds)
        if "peer" in done.errors:
            raise PeerFailed(done.errors["peer"])
        measured = peer.measure()
    encoded = ours.run(x[:rows], "BF16", context.threads)
    weights = rows * x.shape[1]
    result.add(
        contender.name,
        {
            "peer": contender.peer,
            "setting": contender.setting,
            "bits": contender.bits,
            "against": contender.against,
        },
        ours={
            "setting": ours.name,
            "weights": x.size,
            "sqnr_db": encoded.errors.sqnr_db,
            "cosine": encoded.errors.cosine,
            "bits_per_weight": 8 * stored_bytes(encoded) / weights,
        },
        peer={
            "weights": weights,
            "input": given["input"],
            "bits_per_weight": 8 * measured.pop("bytes") / weights,
            **measured,
        },
        seconds=done.seconds,
    )


def _affordable_rows(
    context: Context, peer: Peer, file: Path, rows: int, contender: Contender
) -> int:
    """As many rows of the same matrix as a run of reasonable length allows."""
    probe = min(PROBE_ROWS, rows)
    peer.prepare(file, probe, context.threads, contender.options)
    peer.run()  # compiles, loads and warms what is lazy
    seconds = peer.run()
    if seconds > PEER_SECONDS:
        return max(1, int(probe * PEER_SECONDS / seconds))
    return min(rows, int(probe * PEER_SECONDS / seconds) // PROBE_ROWS * PROBE_ROWS)


# How our kernels are compiled, by environment variables of Numba; each has a cache of its own.
_UNROLLED = {"NUMBA_LOOP_VECTORIZE": "0", "NUMBA_SLP_VECTORIZE": "0"}
_AVX2 = {
    "NUMBA_CPU_NAME": "haswell",
    "NUMBA_CPU_FEATURES": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt,+sse4.2",
}
VARIANTS: dict[str, tuple[str, dict[str, str]]] = {
    "ours": ("ours.py", {}),
    "AVX2 only": ("ours.py", _AVX2),
    "plain x86-64 or arm64": ("ours.py", {"NUMBA_CPU_NAME": "generic"}),
    "compiler's vectorizer off": ("ours.py", _UNROLLED),
    "plain loop, vectorized": ("loops.py", {}),
    "plain loop, scalar": ("loops.py", _UNROLLED),
}
_PROCESSOR = {"AVX2 only"}


def run_simd(context: Context) -> Result:
    """The kernels under other settings of the compiler, one process each, interleaved."""
    result = context.result("simd")
    with scratch("simd") as folder:
        file = folder / "matrix.npy"
        np.save(file, context.matrix())
        for method in CORE:
            for bits in (8, 4, 2):
                if context.wants(bits) and bits in method.bits:
                    _variants(context, result, file, folder, method.usual(bits))
    return result


def _variants(context: Context, result: Result, file: Path, folder: Path, setting: Setting) -> None:
    method, bits = setting.method.name, setting.bits
    label = f"{setting.name}, 1 thread"
    print(f"  {label}", flush=True)
    own = {"bits": bits, "group": setting.group, "method": method}
    plain = {"kind": "numba", "bits": bits, "group": 64}
    rows = 256  # 5.6 MB: not a question of bandwidth
    peers: dict[str, Peer] = {}
    with ExitStack() as stack:
        for name, (module, environment) in VARIANTS.items():
            if (module == "loops.py" and method != "minmax") or _impossible(name):
                continue
            cache = {"NUMBA_CACHE_DIR": str(folder / name.replace(" ", "-").replace("/", ""))}
            try:
                peer = stack.enter_context(
                    Peer(CONTENDERS[0].environment.python(), HERE / module, environment | cache)
                )
                peer.prepare(file, rows, 1, own if module == "ours.py" else plain)
            except PeerFailed as error:
                result.fail(f"{label}: {name}", str(error))
                continue
            peers[name] = peer
        done = interleave({name: peer.run for name, peer in peers.items()}, 3 * context.rounds)
        quality = {name: peers[name].measure() for name in done.seconds if name not in done.errors}
    _note(result, label, done.errors)
    result.add(
        label,
        {"method": method, "bits": bits},
        weights=rows * 11008,
        quality=quality,
        seconds={name: runs for name, runs in done.seconds.items() if runs},
    )


def _impossible(variant: str) -> bool:
    import platform

    return variant in _PROCESSOR and platform.machine() != "x86_64"
