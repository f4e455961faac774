"""Reads are cut as finely as a store rewards, found by trying."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.adapters.objects.pace import MIN_RANGE, Pace

MIB = 2**20


def settled(seconds: Callable[[int, int], float], first: int, reads: int = 300) -> list[int]:
    """Into how many ranges the last reads of 8 MiB were cut, where a read takes so long."""
    pace, cuts = Pace(8, first), []
    for _ in range(reads):
        ranges = pace.ranges(8 * MIB)
        pace.took(ranges, 8 * MIB, seconds(ranges, 8 * MIB))
        cuts.append(ranges)
    return cuts[-64:]


def mostly(cuts: list[int]) -> int:
    return max(set(cuts), key=cuts.count)


@pytest.mark.parametrize("first", [1, 4, 8])
def test_where_a_connection_is_slow_many_are_used(first: int) -> None:
    """20 ms to the first byte, then 100 MB/s for each connection: as S3 from afar."""
    cuts = settled(lambda ranges, nbytes: 0.02 + nbytes / ranges / 100e6, first)
    assert mostly(cuts) == 8


@pytest.mark.parametrize("first", [1, 4, 8])
def test_where_the_store_is_the_limit_one_is_enough(first: int) -> None:
    """500 MB/s however many ask, and each request costs a millisecond."""
    cuts = settled(lambda ranges, nbytes: nbytes / 500e6 + 0.001 * ranges, first)
    assert mostly(cuts) == 1


def test_what_changes_is_followed() -> None:
    pace = Pace(8, 4)

    def read(count: int, seconds: Callable[[int], float]) -> list[int]:
        cuts = []
        for _ in range(count):
            cuts.append(pace.ranges(8 * MIB))
            pace.took(cuts[-1], 8 * MIB, seconds(cuts[-1]))
        return cuts[-64:]

    assert mostly(read(300, lambda ranges: 0.02 + 0.001 * ranges)) == 1
    assert mostly(read(300, lambda ranges: 0.08 / ranges)) == 8


def test_small_reads_are_cut_less_and_tell_nothing() -> None:
    pace = Pace(8, 4)
    assert pace.ranges(MIN_RANGE - 1) == 1
    assert pace.ranges(2 * MIN_RANGE) == 2
    for _ in range(100):
        pace.took(8, MIB, 1e-9)
    assert {pace.ranges(8 * MIB) for _ in range(5)} == {4}
