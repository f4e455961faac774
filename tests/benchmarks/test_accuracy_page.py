"""What the page on accuracy says comes from the raw results; the measures behind it are what they claim."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import accuracy_page, end_metrics, results
from benchmarks.accuracy_page import FRECHET, pareto
from benchmarks.models import frechet, mel
from benchmarks.models.rows import rows


def test_the_committed_page_is_what_the_committed_results_give() -> None:
    files = accuracy_page.generate()
    assert accuracy_page.TARGET.read_text() == files[accuracy_page.TARGET.name], "run `make report`"
    drawn = {name: text for name, text in files.items() if name.endswith(".svg")}
    assert {p.name: p.read_text() for p in accuracy_page.CHARTS.glob("*")} == drawn
    assert set(re.findall(r"\(accuracy/([^)]+)\)", accuracy_page.TARGET.read_text())) == set(drawn)
    for text in drawn.values():
        ET.fromstring(text)


def test_it_speaks_without_any_result(tmp_path: Path) -> None:
    page = accuracy_page.generate(tmp_path)[accuracy_page.TARGET.name]
    assert page.count("Not measured yet.") == len(end_metrics.MODELS)


def record(name: str, bits: float, value: float) -> dict[str, Any]:
    return {"name": name, "bits_per_weight": bits, "frechet": value}


def test_the_front_is_what_no_row_of_as_few_bits_beats() -> None:
    records = [
        record("coarse", 2.0, 9.0),
        record("beaten", 2.5, 9.5),
        record("tied at more bits", 3.0, 9.0),
        record("fine", 4.0, 1.0),
        record("worse at the same bits", 4.0, 2.0),
    ]
    assert [r["name"] for r in pareto(FRECHET, records)] == ["coarse", "fine"]


def test_failed_rows_are_kept_as_failures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(end_metrics, "LINES", tmp_path)
    (tmp_path / "dit-digits.jsonl").write_text('{"name": "W2 odd", "error": "ValueError: odd"}\n')
    result = results.Result("end_metrics", {})
    end_metrics.collect(result)
    assert result.failures == [{"name": "dit-digits: W2 odd", "error": "ValueError: odd"}]


def test_a_result_gives_back_the_lines_it_came_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_metrics, "LINES", tmp_path / "before")
    labels = {"family": "rtn", "bits": 2, "weights": None, "activations": None, "seed": 0}
    line = {"model": "dit-digits", "name": "W2 rtn row", **labels, "accuracy": 0.5}
    gone = line | {"name": "W2 of a row that is no more"}
    (tmp_path / "before").mkdir()
    lines = "".join(json.dumps(each) + "\n" for each in (gone, line))
    (tmp_path / "before" / "dit-digits.jsonl").write_text(lines)
    result = results.Result("end_metrics", {})
    end_metrics.collect(result)
    file = result.write(tmp_path)
    monkeypatch.setattr(end_metrics, "LINES", tmp_path / "after")
    end_metrics.restore("dit-digits", file)
    assert json.loads((tmp_path / "after" / "dit-digits.jsonl").read_text()) == line


def test_rows_have_names_of_their_own_and_cover_every_width() -> None:
    found = list(rows())
    assert len({row.name for row in found}) == len(found)
    assert found[0].weights is None
    assert found[0].activations is None
    pairs = {(row.bits, (row.activations or {"bits": 16})["bits"]) for row in found}
    assert pairs >= {(8, 8), (4, 8), (4, 16), (3, 16), (2, 16)}


def test_the_frechet_distance_of_shifted_and_stretched_gaussians() -> None:
    x = np.random.default_rng(0).standard_normal((4000, 3))
    assert frechet.distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet.distance(x, x + np.array([1.0, 2.0, 0.0])) == pytest.approx(5)
    # Of N(0, C) and N(0, 4 C): tr(C + 4 C - 2 * 2 C) = tr C.
    assert frechet.distance(x - x.mean(0), 2 * (x - x.mean(0))) == pytest.approx(
        np.trace(np.cov(x, rowvar=False))
    )


def test_a_paired_difference_is_known_better_than_its_terms() -> None:
    random = np.random.default_rng(1)
    real, drawn = random.standard_normal((500, 4)), random.standard_normal((300, 4)) + 0.3
    near = drawn + 0.01 * random.standard_normal(drawn.shape)
    alone = frechet.standard_error(near, real, None)
    paired = frechet.standard_error(near, real, drawn)
    assert 0 < paired < alone / 5


def test_a_tone_is_loudest_in_its_own_mel_band() -> None:
    t = np.arange(mel.RATE) / mel.RATE
    centres = mel.filters() @ np.arange(mel.WINDOW // 2 + 1) / mel.filters().sum(1)
    for band in (5, 12, 20):
        pitch = centres[band] * mel.RATE / mel.WINDOW
        spectrum = mel.log_mel(np.sin(2 * np.pi * pitch * t).astype(np.float32))
        assert spectrum.shape == (mel.BINS, 1 + (mel.RATE - mel.WINDOW) // mel.HOP)
        assert spectrum.mean(1).argmax() == band
