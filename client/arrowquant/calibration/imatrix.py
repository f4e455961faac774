"""Reading llama.cpp's importance matrices: the GGUF form and the older .dat.

Both hold sums of squares per channel of what entered each weight, and no digest of any weight. The
newer form also has the sums themselves. Files are untrusted: every length is checked against
what is left of the file.

Source: the formats as llama.cpp's imatrix tool documents them (GGUF version 2 and 3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration import layout
from arrowquant.calibration.index import invalid

_MAGIC: Final = b"GGUF"
_MAX_BYTES: Final = 2 * 2**30
_MAX_KEYS: Final = 4096
_SCALARS: Final = {
    0: "B", 1: "b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_STRING, _ARRAY, _F32 = 8, 9, 0


@dataclass(frozen=True, slots=True)
class Importance:
    """Of one weight: sum of x^2 and of x (None where unknown), float64 (n,), over `count` rows."""

    count: int
    sum_sq: NDArray[np.float64]
    sum: NDArray[np.float64] | None


def read(path: Path) -> tuple[dict[str, Importance], dict[str, str]]:
    """Importances by the weight's name, and what the file says of itself.

    Raises invalid_calibration.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise invalid(f"more than {_MAX_BYTES} bytes", file=path.name)
    data = path.read_bytes()
    try:
        return _gguf(data) if data[:4] == _MAGIC else _legacy(data)
    except (struct.error, UnicodeDecodeError, OverflowError) as error:
        raise invalid(f"not a readable imatrix: {error}", file=path.name) from None


class _Cursor:
    """Takes values off some bytes, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data, self.at = data, 0

    def number(self, code: str) -> float:
        value: float = struct.unpack_from(code, self._data, self.at)[0]
        self.at += struct.calcsize(code)
        return value

    def natural(self, code: str, most: int) -> int:
        value = int(self.number(code))
        if not 0 <= value <= most:
            raise invalid(f"a count of {value}, at most {most}", byte=self.at)
        return value

    def text(self, code: str = "<Q", most: int = 2**16) -> str:
        return self.take(self.natural(code, most)).decode()

    def take(self, nbytes: int) -> bytes:
        if nbytes > len(self._data) - self.at:
            raise invalid(f"{nbytes} bytes are announced, the file ends before", byte=self.at)
        self.at += nbytes
        return self._data[self.at - nbytes : self.at]


def _gguf(data: bytes) -> tuple[dict[str, Importance], dict[str, str]]:
    cursor = _Cursor(data)
    cursor.take(4)
    version = cursor.number("<I")
    if version not in (2, 3):
        raise invalid(f"GGUF version {version:g}; 2 and 3 are read")
    tensors = cursor.natural("<Q", 3 * layout.MAX_WEIGHTS)
    keys = {cursor.text(): _value(cursor) for _ in range(cursor.natural("<Q", _MAX_KEYS))}
    if keys.get("general.type") != "imatrix":
        raise invalid(f"a GGUF of type {keys.get('general.type', '?')!r:.40}, not an imatrix")
    places = {}
    for _ in range(tensors):
        name = cursor.text(most=layout.MAX_NAME_CHARS + 16)
        shape = [cursor.natural("<Q", layout.MAX_CHANNELS) for _ in range(cursor.natural("<I", 4))]
        kind, offset = cursor.number("<I"), cursor.natural("<Q", _MAX_BYTES)
        if kind != _F32:
            raise invalid(f"type {kind:g}, an imatrix holds float32", tensor=name[:200])
        places[name] = (shape, offset)
    alignment = int(keys.get("general.alignment") or 32)
    if not 1 <= alignment <= 2**16:
        raise invalid(f"an alignment of {alignment}")
    start = -(-cursor.at // alignment) * alignment
    arrays = {
        name: _floats(data, start + offset, shape) for name, (shape, offset) in places.items()
    }
    facts = {
        k.removeprefix("imatrix."): v[:4096] for k, v in keys.items() if k.startswith("imatrix.")
    }
    return _importances(arrays), facts


def _importances(arrays: dict[str, NDArray[np.float64]]) -> dict[str, Importance]:
    """Experts of one weight, if it has several, are added up."""
    found = {}
    for name, squares in arrays.items():
        if not name.endswith(".in_sum2"):
            continue
        weight = name.removesuffix(".in_sum2")
        counts = arrays.get(f"{weight}.counts")
        if counts is None:
            raise invalid("its counts are missing", tensor=weight[:200])
        total = float(counts.sum())
        if not 0 <= total <= layout.MAX_COUNT:
            raise invalid("its counts are not possible", tensor=weight[:200])
        sums = arrays.get(f"{weight}.in_sum")
        if sums is not None and sums.shape != squares.shape:
            raise invalid("sums and squares differ in shape", tensor=weight[:200])
        if total:
            found[weight] = Importance(
                int(total), squares.sum(axis=0), None if sums is None else sums.sum(axis=0)
            )
    return found


def _floats(data: bytes, start: int, shape: list[int]) -> NDArray[np.float64]:
    """(everything else, first dimension), as the first one runs fastest."""
    first, others = (shape or [1])[0], int(np.prod(shape[1:], dtype=np.int64))
    if first * others * 4 > len(data) - start or first * others < 1:
        raise invalid(f"a tensor of shape {shape} reaches past the end", byte=start)
    found = np.frombuffer(data, "<f4", first * others, start)
    return found.astype(np.float64).reshape(others, first)


def _value(cursor: _Cursor, depth: int = 0) -> str:
    """A value as text; of a list, its items."""
    kind = cursor.natural("<I", 12)
    return _typed(cursor, kind, depth)


def _typed(cursor: _Cursor, kind: int, depth: int) -> str:
    if kind == _STRING:
        return cursor.text(most=2**20)
    if kind == _ARRAY:
        if depth > 1:
            raise invalid("lists nested too deep", byte=cursor.at)
        inner = cursor.natural("<I", 12)
        count = cursor.natural("<Q", 2**20)
        return ", ".join(_typed(cursor, inner, depth + 1) for _ in range(count))
    return f"{cursor.number(_SCALARS[kind]):g}"


def _legacy(data: bytes) -> tuple[dict[str, Importance], dict[str, str]]:
    """Values are means times the number of calls, whatever a call's rows were."""
    cursor = _Cursor(data)
    found = {}
    for _ in range(cursor.natural("<i", layout.MAX_WEIGHTS)):
        name = cursor.text("<i", layout.MAX_NAME_CHARS)
        calls = cursor.natural("<i", 2**31 - 1)
        n = cursor.natural("<i", layout.MAX_CHANNELS)
        values = np.frombuffer(cursor.take(4 * n), "<f4").astype(np.float64)
        if calls and n:
            found[name] = Importance(calls, values, None)
    facts = {}
    if cursor.at < len(data):
        facts["chunk_count"] = f"{cursor.natural('<i', 2**31 - 1)}"
        if cursor.at < len(data):
            facts["datasets"] = cursor.text("<i", 4096)
    return found, facts
