"""Seeded synthetic models of any size, written without ever being in memory.

Weights are "llm-like": Gaussian, with a log-normal gain for each input channel and one weight in a
thousand five times as large. Rows repeat with a period of 64 MiB, which no method here can notice and
which makes gigabytes quick to write; every tensor begins at another row, so that no two are equal.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

_PERIOD_BYTES = 64 * 2**20


def llm_like(rows: int, cols: int, seed: int) -> npt.NDArray[np.uint16]:
    """BF16 bit patterns (rows, cols)."""
    rng = np.random.default_rng(seed)
    gains = rng.lognormal(0.0, 0.2, cols).astype(np.float32) * np.float32(0.02)
    values = rng.standard_normal((rows, cols), dtype=np.float32) * gains
    values[rng.random((rows, cols), dtype=np.float32) < 1e-3] *= np.float32(5)
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def model_pieces(shapes: dict[str, tuple[int, int]], seed: int = 0) -> Iterator[memoryview]:
    """A safetensors file of BF16 matrices with these shapes, piece by piece."""
    header: dict[str, object] = {}
    position = 0
    for name, (rows, cols) in shapes.items():
        stop = position + 2 * rows * cols
        header[name] = {"dtype": "BF16", "shape": [rows, cols], "data_offsets": [position, stop]}
        position = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    blocks: dict[int, npt.NDArray[np.uint16]] = {}
    for number, (rows, cols) in enumerate(shapes.values()):
        if cols not in blocks:
            blocks[cols] = llm_like(_PERIOD_BYTES // (2 * cols), cols, seed + cols)
        block = blocks[cols]
        written, first = 0, 7 * number % len(block)
        while written < rows:
            run = block[first : first + rows - written]
            yield run.data.cast("B")
            written, first = written + len(run), 0


def write_model(path: Path, shapes: dict[str, tuple[int, int]], seed: int = 0) -> Path:
    """A safetensors file of BF16 matrices with these shapes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for piece in model_pieces(shapes, seed):
            file.write(piece)
    return path


def four_gigabytes() -> dict[str, tuple[int, int]]:
    """4 GB of BF16 with one tensor of 1 GB among the matrices of a transformer."""
    shapes = {"embed_tokens.weight": (131072, 4096)}
    for layer in range(24):
        shapes[f"blocks.{layer}.attn.qkv.weight"] = (6144, 4096)
        shapes[f"blocks.{layer}.mlp.down.weight"] = (4096, 9216)
    return shapes


def gaussian(rows: int, cols: int, seed: int) -> npt.NDArray[np.float32]:
    """Independent standard normal float32: the source Shannon's bound is exact for."""
    return np.random.default_rng(seed).standard_normal((rows, cols), dtype=np.float32)


def widened(patterns: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """BF16 bit patterns as float32; exact."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)


# Matrices of transformers of three sizes; norms and biases weigh nothing here.
#         hidden, key and value, intermediate, layers, vocabulary, tied
_SIZES = {
    "100M": (768, 768, 2048, 12, 32000, True),
    "600M": (1024, 1024, 3072, 32, 151936, True),
    "7B": (3584, 512, 18944, 28, 152064, False),
}


def transformer(size: str) -> dict[str, tuple[int, int]]:
    """Shapes of a decoder of about 100 M, 600 M or 7.6 G parameters."""
    hidden, keys, inner, layers, words, tied = _SIZES[size]
    shapes = {"model.embed_tokens.weight": (words, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.q_proj.weight": (hidden, hidden),
            f"{prefix}.self_attn.k_proj.weight": (keys, hidden),
            f"{prefix}.self_attn.v_proj.weight": (keys, hidden),
            f"{prefix}.self_attn.o_proj.weight": (hidden, hidden),
            f"{prefix}.mlp.gate_proj.weight": (inner, hidden),
            f"{prefix}.mlp.up_proj.weight": (inner, hidden),
            f"{prefix}.mlp.down_proj.weight": (hidden, inner),
        }
    if not tied:
        shapes["lm_head.weight"] = (words, hidden)
    return shapes


SIZES = tuple(_SIZES)

# Of diffusion transformers: DiT-B and DiT-XL (Peebles and Xie 2023).
#         width, blocks
_DIFFUSION = {"100M": (768, 12), "600M": (1152, 28)}


def diffusion_transformer(size: str) -> dict[str, tuple[int, int]]:
    """Shapes of the blocks of a class-conditional diffusion transformer of about 130 M or 670 M parameters."""
    width, blocks = _DIFFUSION[size]
    shapes: dict[str, tuple[int, int]] = {}
    for block in range(blocks):
        prefix = f"transformer_blocks.{block}"
        shapes |= {
            f"{prefix}.norm1.linear.weight": (6 * width, width),
            f"{prefix}.attn1.to_q.weight": (width, width),
            f"{prefix}.attn1.to_k.weight": (width, width),
            f"{prefix}.attn1.to_v.weight": (width, width),
            f"{prefix}.attn1.to_out.0.weight": (width, width),
            f"{prefix}.ff.net.0.proj.weight": (4 * width, width),
            f"{prefix}.ff.net.2.weight": (width, 4 * width),
        }
    return shapes
