"""Safetensors files of a folder, read in pieces and rewritten in place of a copy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from arrowquant.artifact import decode
from service.domain.errors import ArrowQuantError
from service.domain.safetensors import LENGTH_BYTES, HeaderTensor, header_length, parse_header

PIECE_BYTES: Final = 4 * 2**20
MAX_CONFIG_BYTES: Final = 2**20
_KINDS: Final = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
#: The largest number of each dtype whose tensors can be rewritten.
LARGEST: Final = {
    "F64": float(np.finfo(np.float64).max),
    "F32": float(np.finfo(np.float32).max),
    "F16": float(np.finfo(np.float16).max),
    "BF16": 3.38e38,
}


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor and the file that it is in."""

    file: Path
    head: HeaderTensor

    @property
    def dtype(self) -> str:
        return self.head.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.head.shape

    @property
    def rows(self) -> int:
        return self.shape[0]

    @property
    def cols(self) -> int:
        return int(np.prod(self.shape[1:], dtype=np.int64))

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """First row and bytes of a few MiB of whole rows at a time."""
        width = self.cols * np.dtype(_KINDS[self.dtype]).itemsize
        step = max(1, PIECE_BYTES // max(width, 1))
        with self.file.open("rb") as stream:
            stream.seek(self.head.start)
            for row in range(0, self.rows, step):
                data = stream.read(min(step, self.rows - row) * width)
                yield row, data

    def values(self, data: bytes) -> NDArray[np.float64]:
        """Numbers of a piece, float64 (rows, cols)."""
        kept: NDArray[Any] = np.frombuffer(data, _KINDS[self.dtype])
        wide = decode.from_bfloat16(kept) if self.dtype == "BF16" else kept
        return wide.astype(np.float64).reshape(-1, self.cols)

    def stored(self, values: NDArray[np.float64]) -> bytes:
        """The bytes of numbers, rounded to the tensor's dtype."""
        if self.dtype == "BF16":
            return decode.to_bfloat16(values.astype(np.float32)).tobytes()
        return values.astype(_KINDS[self.dtype]).tobytes()


def tensors(place: Path) -> dict[str, Stored]:
    """Of a .safetensors file, or of all those in a folder. Raises source_not_found,
    invalid_safetensors_header, invalid_index."""
    found: dict[str, Stored] = {}
    for file in files(place):
        for head in _heads(file):
            if head.name in found:
                raise ArrowQuantError(
                    "invalid_index",
                    "two files hold the same tensor",
                    "Leave one of the two in the folder.",
                    {"object": file.name, "tensor": head.name},
                )
            found[head.name] = Stored(file, head)
    return found


def files(place: Path) -> list[Path]:
    """The .safetensors files. Raises source_not_found."""
    found = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    if not found or not all(file.is_file() for file in found):
        raise ArrowQuantError(
            "source_not_found",
            "there is no .safetensors file",
            "Name the file, or the folder that holds the files directly.",
            {"path": str(place)},
        )
    return found


def _heads(file: Path) -> list[HeaderTensor]:
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = header_length(stream.read(32), size, file.name)
        stream.seek(LENGTH_BYTES)
        return parse_header(stream.read(length), size, file.name)


def rewritable(tensor: Stored) -> bool:
    """Whether its numbers can be changed."""
    return (
        tensor.dtype in _KINDS and len(tensor.shape) >= 1 and tensor.head.stop > tensor.head.start
    )


@dataclass(frozen=True, slots=True)
class Configuration:
    """What config.json beside the weights says, as far as it says it."""

    model_class: str | None = None
    head_dim: int | None = None


def configuration(place: Path) -> Configuration:
    """Read it; nothing is known where there is none that can be read."""
    path = (place if place.is_dir() else place.parent) / "config.json"
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            return Configuration()
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return Configuration()
    if not isinstance(found, dict):
        return Configuration()
    named = found.get("_class_name") or found.get("model_type")
    return Configuration(named if isinstance(named, str) else None, _head_dim(found))


def _head_dim(found: dict[str, Any]) -> int | None:
    width = _number(found, "hidden_size", "d_model")
    heads = _number(found, "num_attention_heads", "n_heads")
    told = _number(found, "head_dim")
    if told or not width or not heads or width % heads:
        return told
    return width // heads


def _number(found: dict[str, Any], *names: str) -> int | None:
    values = (found.get(name) for name in names)
    return next((value for value in values if type(value) is int and value > 0), None)
