"""Which code makes the bytes: the versions that equal results depend on."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

_MAKERS = ("arrowquant", "numba", "llvmlite", "numpy", "pyarrow")


@cache
def versions() -> dict[str, str]:
    """Of this product and of every library that has a hand in the stored bytes."""
    return {name: version(name) for name in _MAKERS}
