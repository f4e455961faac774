"""Small artifacts, written by a second, independent hand; sums are taken in plain Python."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.client.naive import (
    SCHEMA,
    WIDTH,
    Stored,
    bf16,
    codebook,
    quantized,
    raw,
    superblock,
    trellis,
    turned,
)


def write_part(path: Path, rows: list[dict[str, Any]], schema: pa.Schema = SCHEMA) -> None:
    """One batch per row."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for row in rows:
            arrays = [pa.array([row[f.name]], f.type) for f in schema]
            writer.write_batch(pa.record_batch(arrays, schema=schema))


def write_artifact(
    folder: Path,
    tensors: list[Stored],
    *,
    parts: int = 1,
    tied: dict[str, str] | None = None,
    part_tiles: bool = True,
    name: str = "tiny",
) -> Path:
    """Spread the tiles over the parts, in turn, and write manifest and report."""
    folder.mkdir(parents=True, exist_ok=True)
    contents: list[list[dict[str, Any]]] = [[] for _ in range(parts)]
    places: dict[str, list[list[int]]] = {}
    for number, (tensor, row) in enumerate((t, r) for t in tensors for r in t.rows):
        part = number % parts
        places.setdefault(tensor.name, []).append([part, len(contents[part])])
        contents[part].append(row)
    entries = []
    for number, rows in enumerate(contents):
        path = folder / f"part-{number:05d}.arrow"
        write_part(path, rows)
        entries.append(part_entry(path, len(rows)))
    report = json.dumps(make_report(tensors)).encode()
    (folder / "report.json").write_bytes(report)
    manifest = {
        "format": "arrowquant",
        "format_version": 2,
        "name": name,
        "source": {"objects": [], "tensors": len(tensors)},
        "recipe": {"requested": {"bits": 4}, "resolved": {"bits": 4}},
        "engine": {"arrowquant": "0.1.0"},
        "parts": entries,
        "tensors": [
            {
                "name": t.name,
                "shape": list(t.shape),
                "dtype": t.dtype,
                "role": t.role,
                "codec": t.codec,
                "bits": t.bits,
                "group_size": t.group_size,
                "state": "KEPT" if t.codec == "raw" else "DONE",
                "reason": "one-dimensional" if t.codec == "raw" else "requested width",
                **({"part_tiles": places[t.name]} if part_tiles else {}),
            }
            for t in tensors
        ],
        "tied": tied or {},
        "totals": totals(tensors),
        "escalations": [],
        "warnings": [],
        "report": {
            "name": "report.json",
            "bytes": len(report),
            "sha256": hashlib.sha256(report).hexdigest(),
        },
        "a key of a later version": {"ignored": True},
    }
    write_manifest(folder, manifest)
    return folder


def part_entry(path: Path, batches: int) -> dict[str, Any]:
    data = path.read_bytes()
    return {
        "name": path.name,
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "batches": batches,
    }


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))


def read_manifest(folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return value


def totals(tensors: list[Stored]) -> dict[str, Any]:
    parameters = sum(int(np.prod(t.shape)) for t in tensors)
    payload = sum(stored_bytes(t) for t in tensors)
    return {
        "parameters": parameters,
        "source_bytes": sum(int(np.prod(t.shape)) * WIDTH[t.dtype] for t in tensors),
        "payload_bytes": payload,
        "artifact_bytes": payload + 4096,
        "bits_per_weight": round(8 * payload / max(parameters, 1), 4),
    }


def stored_bytes(tensor: Stored) -> int:
    """Payload of all tiles: halves, singles and bytes."""
    widths = {"scales": 2, "mins": 2, "codebook": 4, "col_scale": 4, "bias_correction": 4}
    widths |= {"codes": 1, "scale_codes": 1, "min_codes": 1}
    return sum(
        width * len(row[name])
        for row in tensor.rows
        for name, width in widths.items()
        if row[name] is not None
    )


def metrics(tensor: Stored) -> dict[str, float | None]:
    if tensor.codec == "raw":
        return {"relmse": None, "sqnr_db": None, "cosine": None, "max_abs_error": None}
    assert tensor.source is not None
    assert tensor.expected is not None
    w = tensor.source.astype(np.float64).ravel()
    v = tensor.expected.astype(np.float64).ravel()
    relmse = float(((w - v) ** 2).sum() / (w**2).sum())
    return {
        "relmse": relmse,
        "sqnr_db": float(-10 * np.log10(relmse)),
        "cosine": float(w @ v / np.sqrt((w @ w) * (v @ v))),
        "max_abs_error": float(np.abs(w - v).max()),
    }


def make_report(tensors: list[Stored]) -> dict[str, Any]:
    return {
        "totals": totals(tensors),
        "tensors": [
            {
                "name": t.name,
                "state": "KEPT" if t.codec == "raw" else "DONE",
                "bits": t.bits,
                "codec": t.codec,
                "group_size": t.group_size,
                "role": t.role,
                "reason": "",
                "source_bytes": int(np.prod(t.shape)) * WIDTH[t.dtype],
                "stored_bytes": stored_bytes(t),
                **metrics(t),
                "history": [],
            }
            for t in tensors
        ],
        "worst": [t.name for t in tensors if t.codec != "raw"][:3],
        "summary": {},
    }


def sample_tensors() -> list[Stored]:
    """Every codec, width and shape that version 2 knows."""
    rng = np.random.default_rng(7)
    tensors = [
        quantized("a.q4", (12, 200), "affine_u", 4, 64, tile_rows=5, seed=1),
        quantized("b.q2", (7, 130), "affine_u", 2, 32, tile_rows=3, seed=2, dtype="BF16"),
        quantized("c.q3", (5, 77), "affine_u", 3, 64, seed=3, dtype="F16"),
        quantized("d.q8", (6, 65), "affine_u", 8, 32, tile_rows=4, seed=4),
        quantized("e.s4", (6, 33), "sym_s", 4, 32, seed=5, tile_rows=4),
        quantized("f.s3", (4, 40), "sym_s", 3, 0, seed=6),
        quantized("g.whole", (9, 31), "affine_u", 4, -1, seed=8),
        quantized("h.whole.s8", (3, 31), "sym_s", 8, -1, seed=9),
        quantized("i.conv", (8, 3, 3, 3), "affine_u", 4, 0, seed=10, role="conv"),
        quantized("j.s2", (3, 64), "sym_s", 2, 32, seed=11),
        superblock("s.sb2", (5, 300), 2, 16, 4, tile_rows=2, seed=13),
        superblock("s.sb3", (3, 513), 3, 32, 6, seed=14),
        superblock("s.sb4", (4, 70), 4, 32, 6, tile_rows=3, seed=15),
        superblock("s.sb4small", (2, 9), 4, 16, 4, seed=16),
        trellis("w.two", (3, 37), 2, seed=21),
        trellis("w.three", (4, 50), 3, seed=22),
        trellis("w.four", (2, 1), 4, seed=23),
        codebook("c.nf", (5, 70), 4, 32, seed=19),
        codebook("c.three", (3, 21), 3, 0, seed=20),
        turned(quantized("t.turned", (6, 192), "affine_u", 4, 64, tile_rows=4, seed=17), 64, 1, None),
        turned(superblock("t.both", (3, 96), 2, 16, 4, seed=18), 32, 2**62 + 5, rng.uniform(0.5, 2, 96).astype(np.float32)),
        quantized("embed.weight", (20, 48), "affine_u", 8, 32, seed=12, tile_rows=6, dtype="BF16"),
        raw("k.ids", np.arange(30, dtype=np.int64).reshape(10, 3), "I64", tile_rows=4),
        raw("l.norm", rng.normal(size=17).astype(np.float16), "F16"),
        raw("m.mask", np.array([True, False, True]), "BOOL"),
        raw("n.scalar", np.array(3.5, np.float32), "F32"),
        raw("o.empty", np.empty((0, 4), np.float32), "F32"),
        raw("p.f8", np.arange(16, dtype=np.uint8).reshape(4, 4), "F8_E4M3"),
        raw("q.f64", rng.normal(size=(2, 2)), "F64"),
    ]  # fmt: skip
    patterns, values = bf16(rng.normal(size=(6, 5)).astype(np.float32))
    tensors.append(raw("r.bf16", patterns, "BF16", expected=values, tile_rows=4))
    return tensors


TIES = {"lm_head.weight": "embed.weight"}
