"""Reading all that an artifact has, and being refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import arrowquant
from arrowquant import ArtifactError


def read_all(folder: Path) -> None:
    """Everything a reader can be asked."""
    with arrowquant.open(folder) as model:
        for tensor in model.values():
            tensor.dequantize()
            list(tensor.tiles())


def refused(folder: Path, *words: str) -> ArtifactError:
    with pytest.raises(ArtifactError) as failure:
        read_all(folder)
    for word in words:
        assert word in str(failure.value)
    assert not arrowquant_verify_ok(folder)
    return failure.value


def arrowquant_verify_ok(folder: Path) -> bool:
    try:
        return arrowquant.verify(folder).ok
    except ArtifactError:
        return False
