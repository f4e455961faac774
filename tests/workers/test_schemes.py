"""Every scheme that the service lists makes an artifact that decodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import arrowquant
from service.domain.job import JobState
from service.domain.schemes import Scheme, schemes
from tests import weights
from tests.workers.runs import begin, finish


@pytest.mark.parametrize("scheme", schemes(), ids=lambda s: f"{s.method}-{s.granularity}")
def test_a_job_of_each_scheme_runs(tmp_path: Path, scheme: Scheme) -> None:
    source = weights.write(tmp_path / "model.safetensors", weights.mixed())
    base: dict[str, Any] = {
        "method": scheme.method,
        "granularity": scheme.granularity,
        "fallback": {"enabled": False},
        "unbias": 1.0 if scheme.unbias else 0.0,
    }
    widths = [
        {"id": f"b{bits}-{symmetric}".lower(), "bits": bits, "symmetric": symmetric}
        for bits in scheme.bits
        for symmetric in scheme.symmetric
    ]
    groups = [{"id": f"g{size}", "bits": 4, "group_size": size} for size in scheme.group_sizes]
    for number, outputs in enumerate(filter(None, (widths, groups))):
        job = begin(tmp_path, source, tmp_path / f"out{number}", outputs=outputs, **base)
        last = finish(job)
        assert last.state is JobState.SUCCEEDED, last.error
        for output in outputs:
            with arrowquant.open(tmp_path / f"out{number}" / output["id"]) as artifact:
                assert artifact.verify(against=source).ok
                made = artifact["blocks.0.attn.to_q.weight"]
                assert made.bits == output["bits"]
