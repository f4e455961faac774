"""Comparing two results: what became worse is found, and what vanished too."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import compare


def result(**seconds: list[float]) -> dict[str, Any]:
    record = {
        "name": "minmax 4",
        "labels": {},
        "weights": 1000,
        "sqnr_db": 20.0,
        "seconds": seconds,
    }
    return {"benchmark": "speed", "records": [record], "failures": []}


OLD = result(ours=[1.0, 1.1, 1.0, 0.9, 1.0], traffic=[0.5, 0.5, 0.5, 0.5, 0.5])


def test_nothing_is_worse_than_itself() -> None:
    assert compare.regressions(OLD, copy.deepcopy(OLD), 0.0) == []


def test_a_made_up_regression_is_found() -> None:
    new = result(ours=[1.3, 1.4, 1.3, 1.2, 1.3], traffic=[0.5] * 5)
    (change,) = compare.regressions(OLD, new, 0.1)
    assert change.what == "time over traffic"
    assert change.worse == pytest.approx(0.3)
    assert compare.regressions(OLD, new, 0.5) == []


def test_a_slower_machine_is_no_regression() -> None:
    new = result(ours=[3.0, 3.3, 3.0, 2.7, 3.0], traffic=[1.5] * 5)
    assert compare.regressions(OLD, new, 0.05) == []


def test_lost_quality_is_a_regression() -> None:
    new = copy.deepcopy(OLD)
    new["records"][0]["sqnr_db"] = 17.0
    (change,) = compare.regressions(OLD, new, 0.1)
    assert change.what == "sqnr_db"


@pytest.mark.parametrize("part", ["record", "reference"])
def test_what_is_no_longer_measured_is_a_regression(part: str) -> None:
    new = copy.deepcopy(OLD)
    if part == "record":
        new["records"] = []
    else:
        del new["records"][0]["seconds"]["traffic"]
    (change,) = compare.regressions(OLD, new, 0.1)
    assert "minmax 4" in str(change)


def test_other_benchmarks_do_not_compare() -> None:
    with pytest.raises(ValueError, match="speed cannot be compared with io"):
        compare.regressions(OLD, OLD | {"benchmark": "io"}, 0.1)


def test_the_command_ends_with_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))  # the command would set its own
    old, new = tmp_path / "old.json", tmp_path / "speed.json"
    old.write_text(json.dumps(OLD))
    new.write_text(json.dumps(result(ours=[2.0] * 5, traffic=[0.5] * 5)))
    arguments = ["--output-dir", str(tmp_path), "--compare", str(old)]
    assert command.main(arguments) == command.WORSE
    assert "WORSE minmax 4: time over traffic" in capsys.readouterr().out
    assert command.main([*arguments, "--threshold", "1.5"]) == 0
