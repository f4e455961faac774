"""The report says what the raw results say, and nothing else."""

from __future__ import annotations

import copy
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks import charts, claims, report, results, sections_quality, targets
from benchmarks.findings import Findings
from benchmarks.page import Page


@pytest.fixture(scope="module")
def generated() -> dict[str, str]:
    return report.generate()


def test_the_committed_report_is_what_the_committed_results_give(generated: dict[str, str]) -> None:
    assert report.TARGET.read_text() == generated[report.TARGET.name], "run `make report`"
    kept = {path.name: path.read_text() for path in report.CHARTS.glob("*")}
    assert kept == {name: text for name, text in generated.items() if name.endswith(".svg")}


def test_every_chart_is_shown_and_drawn_for_both_schemes(generated: dict[str, str]) -> None:
    page = generated[report.TARGET.name]
    drawn = {name: text for name, text in generated.items() if name.endswith(".svg")}
    assert set(re.findall(r"\(charts/([^)]+)\)", page)) == set(drawn)
    for text in drawn.values():
        ET.fromstring(text)
        light, _, dark = text.partition("prefers-color-scheme:dark")
        assert charts.LIGHT[0] in light
        assert charts.DARK[0] in dark


def test_it_speaks_without_any_result(tmp_path: Path) -> None:
    page = report.generate(tmp_path)[report.TARGET.name]
    assert page.count("Not measured yet.") > 5
    assert "nan" not in page.lower()


def test_a_failure_is_in_the_report(tmp_path: Path) -> None:
    result = results.Result("peers", {})
    result.fail("somebody else's quantizer", "it would not start")
    result.write(tmp_path)
    page = report.generate(tmp_path)[report.TARGET.name]
    assert "| somebody else's quantizer | it would not start |" in page
    assert "1 measurements failed" in page


def test_a_verdict_follows_the_measurement() -> None:
    quick = {"seconds": {"ours": [1.0] * 5, "peer": [20.0] * 5}}
    slow = {"seconds": {"ours": [1.0] * 5, "peer": [2.0] * 5}}
    record = {
        "name": "Python loop 4 bits G64",
        "labels": {},
        "ours": {"weights": 8},
        "peer": {"weights": 8},
    }
    verdicts = []
    for seconds in (quick, slow):
        found = Findings({"peers": {"records": [record | copy.deepcopy(seconds)]}})
        verdicts.append(claims.rows(found)[0][2:])
    assert verdicts == [
        ("20 times as fast as Python loop, 4 bits", "reached and passed"),
        ("2 times as fast as Python loop, 4 bits", "not reached"),
    ]
    assert claims.rows(Findings({}))[0][2:] == ("–", claims.PENDING)


def test_claims_of_time_and_space_follow_the_end_metrics() -> None:
    def record(name: str, loss: float, mode: str, **more: object) -> dict[str, object]:
        acts = {"mode": mode, "bits": 4, "table": {}} | more
        labels = {"model": "dit-digits", "family": "ours", "weights": {"by": "ours"}, "bits": 4}
        row = {"name": f"dit-digits: {name}", "frechet_added": loss, "bits_per_weight": 4.5}
        return row | {"labels": labels | {"activations": acts}}

    rows = [
        record("W4 A4 static", 10.0, "static"),
        record("W4 A4 time", 6.0, "time"),
        record("W4 A4 time-mse", 4.0, "time-mse"),
        record("W4 A4 static folded by mean", 6.0, "static", fold={"bits": 4}),
    ]  # a folded row is no twin of a plain one
    found = Findings({"end_metrics": {"records": rows}})
    answers = {subject: (said, verdict) for subject, _, said, verdict in claims.rows(found)}
    said, verdict = answers["time groups"]
    assert said == "dit-digits W4 A4 static: loss 10 → 4 (-60%)"
    assert verdict == "the gain is reached in 1 of 1 rows"
    assert "10 → 6 (-40%)" in answers["spatial quantization"][0]
    assert answers["spatial quantization"][1] == "the gain is reached in 0 of 1 rows"


@pytest.mark.parametrize(("decibels", "seconds", "met"), [(22.0, 20.0, True), (23.0, 20.0, False),
                                                          (22.0, 5.0, False)])  # fmt: skip
def test_super_blocks_are_held_against_ggml(decibels: float, seconds: float, met: bool) -> None:
    side = {"weights": 8, "bits_per_weight": 4.5}
    record = {
        "name": "ggml (C) Q4_K",
        "labels": {"against": "superblock", "bits": 4},
        "ours": side | {"sqnr_db": 22.9},
        "peer": side | {"sqnr_db": decibels},
        "seconds": {"ours": [1.0] * 5, "peer": [seconds] * 5},
    }
    found = Findings({"peers": {"records": [record]}})
    (target,) = [each for each in targets.TARGETS if each.work.endswith("Q4_K")]
    answer = target.answer(found)
    assert answer is not None
    assert answer[1] is met
    assert targets.verdicts(Findings({})) == [None] * len(targets.TARGETS)


def test_gptq_is_held_against_the_loop_in_torch() -> None:
    seconds = {"ours": [1.0, 1.0], "peer": [3.0, 3.0]}
    record = {"name": "gptq", "labels": {}, "seconds": seconds, "rho": {"ours": 0.01, "peer": 0.01}}
    found, page = Findings({"gptq": {"records": [record]}}), Page()
    sections_quality.calibrated(found, page)
    assert "| ours | 1 | 3 × | 0.01000 |" in page.text()
    (target,) = [each for each in targets.TARGETS if each.work.startswith("GPTQ")]
    assert target.answer(found) == ("3 ×, error 0.01000 against 0.01000", True)


def test_axes_have_round_numbers() -> None:
    assert charts.nice_ticks(0, 47.3) == [0, 10, 20, 30, 40, 50]
    assert charts.nice_ticks(2.1, 8.9) == [2, 4, 6, 8, 10]
    assert [charts.short(x) for x in (0.5, 1500, 20000, 3e6, 7.6e9)] == [
        *("0.5", "1500", "20k", "3M", "7.6G")
    ]
