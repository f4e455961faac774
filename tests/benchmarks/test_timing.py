"""Rounds of runs, and what of them counts."""

from __future__ import annotations

import itertools
import time

import pytest

from benchmarks.timing import interleave, rested, timed


def test_rounds_are_interleaved_and_a_failure_ends_only_its_own() -> None:
    order: list[str] = []

    def run(name: str) -> float:
        order.append(name)
        if name == "b" and order.count("b") == 2:
            raise RuntimeError("enough")
        return 1.0

    done = interleave({"a": lambda: run("a"), "b": lambda: run("b")}, 2)
    assert order == ["a", "b", "a", "b", "a"]
    assert done.seconds == {"a": [1.0, 1.0], "b": []}
    assert done.errors == {"b": "RuntimeError: enough"}


def test_rounds_go_on_until_there_is_time_enough_to_judge_by() -> None:
    short = interleave({"a": timed(lambda: time.sleep(0.005))}, 2, at_least_s=0.1)
    assert len(short.seconds["a"]) > 5
    assert len(interleave({"a": timed(lambda: time.sleep(0.005))}, 2).seconds["a"]) == 2


@pytest.mark.parametrize(("takes", "counted"), [(0.06, 3), (0.3, 1), (1.1, 0)])
def test_after_a_rest_what_runs_awake_counts(takes: float, counted: int) -> None:
    taken = itertools.count()

    def run() -> float:
        time.sleep(takes)
        return next(taken)

    assert rested(run)() == counted
