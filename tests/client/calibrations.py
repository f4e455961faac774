"""Calibration files for tests: made from random activations with the package's own accumulator."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration.accumulate import Accumulator
from arrowquant.calibration.bins import bin_of
from arrowquant.calibration.digests import digests
from arrowquant.calibration.index import Index, Sensitivity, Weight
from arrowquant.calibration.writer import CalibrationWriter

EDGES = (0.0, 250.0, 500.0, 1000.0)


def activations(rng: np.random.Generator, rows: int, n: int) -> NDArray[np.float32]:
    """Correlated channels of unequal size, with a mean."""
    mixed = rng.normal(size=(rows, 4)) @ rng.normal(size=(4, n)) + 0.3 * rng.normal(size=(rows, n))
    return np.asarray((mixed + 0.2) * np.geomspace(0.1, 3.0, n), np.float32)


def write(
    path: Path,
    fed: Mapping[str, NDArray[np.float32]],
    *,
    weights: Mapping[str, bytes] | None = None,
    shared: Mapping[str, Sequence[str]] | None = None,
    moment: str = "block",
    block: int = 16,
    keep: int = 0,
    seed: int = 0,
    times: NDArray[np.float64] | None = None,
    branch: str = "",
    model: str = "tiny",
    sensitive: Mapping[str, tuple[float, int]] | None = None,
) -> Index:
    """A file of what was fed into each weight.

    fed      activations (rows, n) by the weight's name
    weights  their bytes, for the digests; without them they are not bound
    shared   further weights that an input feeds
    times    of each row, in EDGES; None: no time
    sensitive  sensitivity and runs, by the weight's name
    """
    held = {}
    names: dict[str, Weight] = {}
    for name, x in fed.items():
        made = Accumulator(f"{name}#in", x.shape[1], moment, block, keep, seed)
        places = np.zeros(len(x), np.int32) if times is None else bin_of(times, EDGES)
        made.add(x, places, branch)
        held[name] = made
        for one in [name, *(shared or {}).get(name, ())]:
            bound = () if weights is None else digests(memoryview(weights[one]))
            told = (sensitive or {}).get(one)
            names[one] = Weight(one, f"{name}#in", bound, told and Sensitivity(*told))
    index = Index(
        inputs=tuple(made.entry() for made in held.values()),
        weights=names,
        model=model,
        tool="tests",
        domain="none" if times is None else "timestep",
        edges=() if times is None else EDGES,
        branches=(branch,),
        samples=64,
        keep=keep,
        privacy="samples" if keep else "aggregate",
        meta={"sampler": "ddim", "seeds": str(seed)},
    )
    with CalibrationWriter(path, index) as writer:
        for made in held.values():
            writer.write(made.stats(), made.panels(), made.samples())
    return index


def renamed(index: Index, **changes: object) -> Index:
    """An index with other fields."""
    return replace(index, **changes)  # type: ignore[arg-type]


def gguf(
    tensors: Mapping[str, NDArray[np.float32]], keys: Mapping[str, object] | None = None
) -> bytes:
    """An imatrix as llama.cpp writes it: GGUF version 3, float32 tensors, alignment 32."""
    facts = {"general.type": "imatrix", "imatrix.chunk_count": 3} | dict(keys or {})
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(facts))
    for key, value in facts.items():
        head += _text(key) + _typed(value)
    offset = 0
    for name, values in tensors.items():
        shape = values.shape[::-1]
        head += _text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += struct.pack("<IQ", 0, offset)
        offset += -(-values.nbytes // 32) * 32
    head += bytes(-len(head) % 32)
    return head + b"".join(
        values.astype("<f4").tobytes() + bytes(-values.nbytes % 32) for values in tensors.values()
    )


def legacy(entries: Mapping[str, tuple[int, NDArray[np.float32]]]) -> bytes:
    """The older .dat form."""
    data = struct.pack("<i", len(entries))
    for name, (calls, values) in entries.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", calls, len(values)) + values.astype("<f4").tobytes()
    return data + struct.pack("<ii", 7, 4) + b"wiki"


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _typed(value: object) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, list):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(_text(v) for v in value)
    return struct.pack("<II", 4, value)
