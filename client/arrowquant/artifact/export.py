"""An artifact back to safetensors: original names, shapes and dtypes, one block at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arrowquant.artifact import decode
from arrowquant.artifact.reader import Artifact
from arrowquant.artifact.tensor import QuantizedTensor
from arrowquant.errors import ArrowQuantError

MAX_SHARD_BYTES = 5 * 10**9
INDEX = "model.safetensors.index.json"

_KINDS = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
Progress = Callable[[int], None]  #: called with bytes written since the last call


@dataclass
class _File:
    """A file to write: where, and which tensors in which order."""

    path: Path
    tensors: list[QuantizedTensor] = field(default_factory=list)

    @property
    def partial(self) -> Path:
        return self.path.with_name(f".{self.path.name}.partial")

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def dequantize(
    artifact: str | Path | Artifact,
    out: str | Path,
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> list[Path]:
    """Write every tensor of the artifact as safetensors; the files, in order.

    out  a name that ends in .safetensors gives that one file; anything else is a folder, which
         gets `model.safetensors`, or shards of at most `max_shard_bytes` and their index

    Files appear under their names only when all of them are complete.
    """
    if not isinstance(artifact, Artifact):
        with Artifact.open(artifact) as model:
            return dequantize(
                model,
                out,
                overwrite=overwrite,
                max_shard_bytes=max_shard_bytes,
                progress=progress,
            )
    files, index = _layout(artifact, Path(out), max_shard_bytes)
    biases = {tensor.name: _correction(artifact, tensor) for tensor in artifact.values()}
    targets = [file.path for file in files] + ([index] if index else [])
    _refuse_existing(targets, overwrite)
    _write_all(files, index, progress or (lambda _: None), biases)
    return targets


def _layout(model: Artifact, out: Path, limit: int) -> tuple[list[_File], Path | None]:
    tensors = list(model.values())
    if out.suffix == ".safetensors":
        return [_File(out, tensors)], None
    shards: list[list[QuantizedTensor]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.nbytes
    if len(shards) == 1:
        return [_File(out / "model.safetensors", tensors)], None
    name = "model-{:05d}-of-{:05d}.safetensors"
    files = [
        _File(out / name.format(number, len(shards)), shard)
        for number, shard in enumerate(shards, 1)
    ]
    return files, out / INDEX


def _refuse_existing(targets: list[Path], overwrite: bool) -> None:
    for path in targets:
        if path.exists() and not overwrite:
            raise ArrowQuantError(
                "output_exists",
                "the file is there already",
                "Choose another place, or pass overwrite (--overwrite).",
                {"path": str(path)},
            )


def _correction(model: Artifact, tensor: QuantizedTensor) -> NDArray[np.float32] | None:
    """What a bias gets back of what its layer's mean output lost; None for other tensors."""
    weight = tensor.name.removesuffix(".bias") + ".weight"
    if not tensor.name.endswith(".bias") or tensor.dtype not in _KINDS or weight not in model:
        return None
    found = model[weight].bias_correction()
    return found if found is not None and found.size == tensor.elements else None


def _write_all(
    files: list[_File],
    index: Path | None,
    progress: Progress,
    biases: Mapping[str, NDArray[np.float32] | None],
) -> None:
    partials = [file.partial for file in files]
    try:
        for file in files:
            file.path.parent.mkdir(parents=True, exist_ok=True)
            _write(file, progress, biases)
        for file in files:
            file.partial.replace(file.path)
        if index is not None:
            partials.append(index.with_name(f".{index.name}.partial"))
            partials[-1].write_text(json.dumps(_index(files), indent=1), encoding="utf-8")
            partials[-1].replace(index)
    except OSError as error:
        raise ArrowQuantError(
            "output_failed",
            f"the file cannot be written: {error.strerror or error}",
            "Check free space and permissions.",
            {"path": str(error.filename or files[0].path.parent)},
        ) from None
    finally:
        for path in partials:
            path.unlink(missing_ok=True)


def _index(files: list[_File]) -> dict[str, Any]:
    return {
        "metadata": {"total_size": sum(file.nbytes for file in files)},
        "weight_map": {t.name: file.path.name for file in files for t in file.tensors},
    }


def _write(
    file: _File, progress: Progress, biases: Mapping[str, NDArray[np.float32] | None]
) -> None:
    # Widest types first, as the safetensors library does it: every tensor is then aligned.
    ordered = sorted(file.tensors, key=lambda t: (-(t.nbytes // max(t.elements, 1)), t.name))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in ordered:
        offsets = [position, position + tensor.nbytes]
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.shape),
            "data_offsets": offsets,
        }
        position = offsets[1]
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with file.partial.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for tensor in ordered:
            for block in _bytes(tensor, biases.get(tensor.name)):
                stream.write(block)
                progress(len(block))
        stream.flush()
        os.fsync(stream.fileno())


def _bytes(tensor: QuantizedTensor, correction: NDArray[np.float32] | None) -> Iterator[memoryview]:
    """The tensor in its original dtype; a bias with what is to be added to it."""
    if correction is not None:
        total: NDArray[np.float64] = tensor.dequantize("float64").reshape(-1) + correction
        yield _in_dtype(total, tensor.dtype).view("u1").data
        return
    if tensor.codec == "raw":
        for tile in tensor.stored():
            flat = tile.codes.reshape(-1).data
            for start in range(0, len(flat), 2**20):
                yield flat[start : start + 2**20]
        return
    for values in tensor.blocks(_KINDS[tensor.dtype]):
        yield values.view("u1").data


def _in_dtype(values: NDArray[np.floating], dtype: str) -> NDArray[Any]:
    if dtype == "BF16":
        return decode.to_bfloat16(values.astype(np.float32))
    return values.astype(_KINDS[dtype])
