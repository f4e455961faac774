"""What the tests of object stores share."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from service.domain.errors import ArrowQuantError
from service.domain.ports import Upload

MIB = 2**20


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(ArrowQuantError) as caught:
        call()
    assert caught.value.detail
    return caught.value.code


def finish(upload: Upload) -> None:
    upload.write(noise(30 * MIB))
    upload.complete()


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)
