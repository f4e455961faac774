"""What is measured of a method is what its result decodes to, and the command's options reach the measurements."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import kernels
from benchmarks import __main__ as command
from benchmarks.methods import METHODS, Method, settings, stored_bytes
from benchmarks.synthetic import llm_like, widened
from service.domain.methods import METHODS as PRODUCT

COLS = 512


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_decoding_gives_the_error_that_is_reported(method: Method) -> None:
    x = llm_like(16, COLS, seed=5)
    w = widened(x)
    if method.name == "rotated trellis":
        kernels.rotate(w, seed=1, block=kernels.rotation_block(COLS))
    for bits in method.bits:
        setting = method.usual(bits)
        encoded = setting.run(x, "BF16", 1)
        error = (setting.decode(encoded, COLS) - w).astype(np.float64)
        energy = np.square(w, dtype=np.float64).sum()
        sqnr = 10 * np.log10(energy / np.square(error).sum())
        assert encoded.errors.sqnr_db == pytest.approx(sqnr, abs=0.01)
        assert stored_bytes(encoded) * 8 >= bits * x.size


def test_every_setting_has_a_name_and_labels_of_its_own() -> None:
    every = list(settings())
    assert len({setting.name for setting in every}) == len(every)
    assert len({json.dumps(setting.labels) for setting in every}) == len(every)


def test_the_usual_super_blocks_are_the_product_s() -> None:
    facts = PRODUCT["superblock"]
    method = next(method for method in METHODS if method.name == "superblock")
    for bits in method.bits:
        setting = method.usual(bits)
        given = setting.group, setting.scale_bits
        assert given == (facts.groups[bits], facts.scale_widths[bits])


def test_the_options_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))  # the command would set its own
    arguments = ["trellis", "--quick", "--rounds", "1", "--bit-width", "2", "--cores", "1"]
    arguments += ["--output-dir", str(tmp_path / "out"), "--generate-charts"]
    assert command.main(arguments) == 0
    result = json.loads((tmp_path / "out" / "trellis.json").read_text())
    assert {record["labels"]["bits"] for record in result["records"]} == {2}
    assert result["options"]["threads"] == 1
    report = (tmp_path / "out" / "benchmark-report.md").read_text()
    assert f"{min(r['sqnr_db'] for r in result['records'][::2]):.2f} dB at" in report
    old = tmp_path / "old.json"
    for record in result["records"]:
        record["sqnr_db"] += 2.0
    old.write_text(json.dumps(result))
    compared = ["--output-dir", str(tmp_path / "out"), "--compare", str(old)]
    assert command.main(compared) == command.WORSE
    assert command.main([*compared, "--threshold", "9"]) == 0
