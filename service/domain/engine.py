"""Which code makes the bytes: the versions that equal results depend on."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version

_MAKERS = ("arrowquant", "numba", "llvmlite", "numpy", "pyarrow")


@cache
def versions() -> dict[str, str]:
    """Of this product and of every library that has a hand in the stored bytes.

    Where the API runs without the numerics, their versions are unknown to it and left out.
    """
    found = {}
    for name in _MAKERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
