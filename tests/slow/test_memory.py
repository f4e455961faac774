"""The promise of bounded memory at full size: 4 GB of weights, a tensor of 1 GB, 500 MiB."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import memory
from benchmarks.synthetic import four_gigabytes, write_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors", four_gigabytes())


def test_the_command_stays_within_its_limit(model: Path, tmp_path: Path) -> None:
    run = memory.quantize_folder(model, tmp_path)
    assert run["source_bytes"] > 4 * 10**9
    assert run["peak_rss_bytes"] <= memory.CAP


def test_a_worker_on_s3_stays_within_its_limit(model: Path, tmp_path: Path) -> None:
    run = memory.quantize_through_s3(model, tmp_path)
    assert run["peak_rss_bytes"] <= memory.CAP
