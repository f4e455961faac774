"""The safetensors files an artifact was made from, for comparison: mapped, read in slices.

The safetensors library checks every header; the bytes are then taken from the mapped file, because
the library has no NumPy form of BF16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arrowquant.artifact import decode, schema
from arrowquant.errors import ArrowQuantError

MAX_FILES = 4096


@dataclass(frozen=True, slots=True)
class SourceTensor:
    """A tensor of the source: `data` are its bytes, a view of the mapped file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]

    def weights(self, start: int, count: int) -> NDArray[np.float32]:
        """Elements [start, start + count) in memory order, as float32."""
        kind = np.dtype(schema.NUMPY_DTYPE[self.dtype])
        piece = self.data[start * kind.itemsize : (start + count) * kind.itemsize].view(kind)
        if self.dtype == "BF16":
            return decode.from_bfloat16(piece)
        return piece.astype(np.float32, copy=False)


def open_source(path: str | Path) -> dict[str, SourceTensor]:
    """The tensors of a `.safetensors` file, or of all those in a folder."""
    place = Path(path)
    files = sorted(place.glob("*.safetensors")) if place.is_dir() else [place]
    if not files or len(files) > MAX_FILES or not files[0].is_file():
        raise ArrowQuantError(
            "source_not_found",
            "there is no .safetensors file",
            "Name the file, or the folder that holds the files directly.",
            {"path": str(place)},
        )
    tensors: dict[str, SourceTensor] = {}
    for file in files:
        for tensor in _read(file):
            if tensor.name in tensors:
                raise ArrowQuantError(
                    "invalid_index",
                    "two files hold the same tensor",
                    "",
                    {"file": file.name, "tensor": tensor.name},
                )
            tensors[tensor.name] = tensor
    return tensors


def _read(file: Path) -> Iterator[SourceTensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as checked:
            checked.keys()
        mapped = np.memmap(file, np.uint8, mode="r")
        length = int.from_bytes(mapped[:8].tobytes(), "little")
        header: dict[str, Any] = json.loads(mapped[8 : 8 + length].tobytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise ArrowQuantError(
            "invalid_safetensors_header",
            f"the file cannot be read as safetensors: {error}",
            "",
            {"file": file.name},
        ) from None
    data = mapped[8 + length :].view(np.ndarray)
    for name, entry in header.items():
        if name != "__metadata__":
            start, stop = entry["data_offsets"]
            yield SourceTensor(name, entry["dtype"], tuple(entry["shape"]), data[start:stop])
