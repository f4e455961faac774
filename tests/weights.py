"""Models made for tests: safetensors written by hand, from seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.generic]
Tensors = Mapping[str, tuple[str, Array]]

_NAMES = {"float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "bool": "BOOL"}


def tensor(values: Array) -> tuple[str, Array]:
    """A tensor stored in its own type."""
    return _NAMES[values.dtype.name], values


def bfloat16(values: Array) -> tuple[str, Array]:
    """A tensor stored as BF16: float32 rounded to nearest even, kept as bit patterns."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return "BF16", rounded.astype(np.uint16)


def widened(stored: tuple[str, Array]) -> npt.NDArray[np.float32]:
    """The float32 values of a stored tensor."""
    dtype, values = stored
    if dtype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def gaussian(shape: tuple[int, ...], seed: int, scale: float = 0.02) -> npt.NDArray[np.float32]:
    """What trained weights look like at their best."""
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def write(path: Path, tensors: Tensors) -> Path:
    """One safetensors file, tensor after tensor, so that large models need little memory."""
    header: dict[str, object] = {}
    position = 0
    for name, (dtype, values) in tensors.items():
        stop = position + values.nbytes
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [position, stop],
        }
        position = stop
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for _, values in tensors.values():
            file.write(np.ascontiguousarray(values).tobytes())
    return path


def write_sharded(folder: Path, shards: list[Tensors]) -> Path:
    """Several files and the index that names them."""
    weight_map: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        write(folder / name, tensors)
        weight_map |= dict.fromkeys(tensors, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def mixed() -> dict[str, tuple[str, Array]]:
    """One of everything a model may hold: every dtype we quantize, every kind we keep."""
    tied = bfloat16(gaussian((300, 128), 1))
    return {
        "embed_tokens.weight": tied,
        "blocks.0.attn.to_q.weight": bfloat16(gaussian((96, 200), 2)),
        "blocks.0.attn.to_q.bias": tensor(gaussian((96,), 3)),
        "blocks.0.mlp.fc1.weight": tensor(gaussian((128, 96), 4)),
        "blocks.0.mlp.fc2.weight": tensor(gaussian((96, 128), 5).astype(np.float16)),
        "blocks.0.norm1.weight": tensor(np.ones(96, np.float32)),
        "down.conv1.weight": tensor(gaussian((32, 16, 3, 3), 6)),
        "temporal.conv.weight": bfloat16(gaussian((16, 8, 3, 3, 3), 7)),
        "audio.conv.weight": tensor(gaussian((24, 40, 7), 8)),
        "experts.up.weight": bfloat16(gaussian((4, 32, 64), 9)),
        "constant.weight": tensor(np.full((64, 64), 0.375, np.float32)),
        "zero.weight": bfloat16(np.zeros((64, 64), np.float32)),
        "steps": tensor(np.arange(17, dtype=np.int64)),
        "mask": tensor(np.arange(9) % 2 == 0),
        "scalar": tensor(np.array(1.5, np.float32)),
        "empty.weight": tensor(np.zeros((0, 32), np.float32)),
        "double.weight": tensor(gaussian((64, 64), 10).astype(np.float64)),
        "lm_head.weight": tied,
    }
