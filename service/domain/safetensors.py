"""The safetensors header, parsed as untrusted input.

Layout of a file: an unsigned 64-bit little-endian length N, N bytes of JSON, then the data. Each
entry gives a dtype, a shape and a byte range relative to the data; together the ranges must cover
the data exactly, without holes or overlap (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any

from service.domain.errors import ArrowQuantError

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 200_000
MAX_RANK = 8
MAX_DIM = 2**48
MAX_NAME_CHARS = 1024

# Bits of one element. What is not here is refused: its size would be a guess.
DTYPE_BITS: dict[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip

_NOT_PLAIN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")

_MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"PK\x03\x04", "a zip archive (a PyTorch checkpoint?)"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x03", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
    (b"GGUF", "a GGUF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy file"),
    (b"ARROW1", "an Arrow file"),
    (b"PAR1", "a Parquet file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"version https://git-lfs", "a Git LFS pointer, not the weights themselves"),
)


@dataclass(frozen=True, slots=True)
class HeaderTensor:
    """One entry of a header. `start` and `stop` are absolute byte offsets in the object."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


def header_length(head: bytes, size: int, key: str) -> int:
    """Length of the JSON header from the first bytes of an object of `size` bytes.

    head    at least min(32, size) first bytes, so that other formats can be recognised
    Raises  unsupported_format for what is not safetensors, judged by content
    """
    length = int.from_bytes(head[:LENGTH_BYTES], "little")
    fits = len(head) > LENGTH_BYTES and 2 <= length <= min(MAX_HEADER_BYTES, size - LENGTH_BYTES)
    if fits and head[LENGTH_BYTES] == ord("{"):
        return length  # first of all: a header of 640 bytes begins like a pickle
    for magic, what in _MAGICS:
        if head.startswith(magic):
            raise ArrowQuantError(
                "unsupported_format",
                f"the object is {what}, not safetensors",
                "Convert it to safetensors where it was made; this service never unpickles.",
                {"object": key},
            )
    if len(head) < LENGTH_BYTES:
        raise _invalid(key, f"the object has only {size} bytes")
    if length > MAX_HEADER_BYTES:
        raise ArrowQuantError(
            "unsupported_format",
            f"the first 8 bytes announce a header of {length} bytes (at most {MAX_HEADER_BYTES})",
            "Either the object is not safetensors or its header is larger than we accept.",
            {"object": key},
        )
    if not fits:
        raise _invalid(key, f"a header of {length} bytes does not fit an object of {size} bytes")
    raise _invalid(key, "the header does not begin with '{'")


def parse_header(header: bytes, size: int, key: str) -> list[HeaderTensor]:
    """The tensors of one object, in the order of their data.

    header  the JSON, exactly as long as `header_length` said
    size    bytes of the whole object
    """
    return parse_with_metadata(header, size, key)[0]


def parse_with_metadata(
    header: bytes, size: int, key: str
) -> tuple[list[HeaderTensor], dict[str, str]]:
    """As `parse_header`, and what the writer noted about the whole (`__metadata__`)."""
    try:
        entries = json.loads(header.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except _DuplicateKey as error:
        raise _invalid(key, f"the key {error.args[0][:80]!r} appears twice") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _invalid(key, f"the header is not JSON: {error}") from None
    if not isinstance(entries, dict):
        raise _invalid(key, "the header is not a JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _invalid(key, "__metadata__ must map strings to strings")
    if len(entries) > MAX_TENSORS:
        raise _invalid(key, f"{len(entries)} tensors, at most {MAX_TENSORS}")
    data_start = LENGTH_BYTES + len(header)
    tensors = [_tensor(name, entry, data_start, key) for name, entry in entries.items()]
    tensors.sort(key=lambda t: (t.start, t.stop, t.name))
    _check_covering(tensors, data_start, size, key)
    return tensors, metadata


class _DuplicateKey(Exception):
    pass


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise _DuplicateKey(name)
        result[name] = value
    return result


def _tensor(name: str, entry: Any, data_start: int, key: str) -> HeaderTensor:
    if not name or len(name) > MAX_NAME_CHARS:
        raise _invalid(key, f"a tensor name has {len(name)} characters (1 to {MAX_NAME_CHARS})")
    if not plain_text(name):
        raise _invalid(key, f"the name {name[:80]!r} holds control characters or is not Unicode")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _invalid(key, "an entry must have dtype, shape and data_offsets", name)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ArrowQuantError(
            "unsupported_dtype",
            f"dtype {str(dtype)[:40]!r} is not known",
            f"Known: {', '.join(sorted(DTYPE_BITS))}.",
            {"object": key, "tensor": name},
        )
    if not _naturals(shape) or len(shape) > MAX_RANK or any(dim > MAX_DIM for dim in shape):
        raise _invalid(key, f"shape must be at most {MAX_RANK} whole numbers up to 2^48", name)
    if not _naturals(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _invalid(key, "data_offsets must be two ascending whole numbers", name)
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise _invalid(
            key,
            f"shape {shape} of {dtype} needs {bits / 8:g} bytes, the range has "
            f"{offsets[1] - offsets[0]}",
            name,
        )
    return HeaderTensor(name, dtype, tuple(shape), data_start + offsets[0], data_start + offsets[1])


def plain_text(text: str) -> bool:
    """Whether a text from untrusted JSON can be stored and shown anywhere as it is."""
    return _NOT_PLAIN.search(text) is None


def _naturals(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)


def _check_covering(tensors: list[HeaderTensor], start: int, size: int, key: str) -> None:
    position = start
    for tensor in tensors:
        if tensor.start != position:
            what = (
                "overlaps the one before" if tensor.start < position else "leaves a gap before it"
            )
            raise _invalid(key, f"the data range {what}", tensor.name)
        position = tensor.stop
    if position != size:
        raise _invalid(
            key, f"the header describes {position} bytes, the object has {size} (truncated?)"
        )


def _invalid(key: str, detail: str, tensor: str | None = None) -> ArrowQuantError:
    where = {"object": key} | ({"tensor": tensor[:200]} if tensor is not None else {})
    hint = "Write the file again with the safetensors library."
    return ArrowQuantError("invalid_safetensors_header", detail, hint, where)
