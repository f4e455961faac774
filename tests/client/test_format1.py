"""Artifacts of version 1 are read as they always were.

The folder `format1` was written by the release that had version 1; digests are of what its reader gave.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

import arrowquant
from arrowquant import ArtifactError
from tests.client import fixtures, naive

OLD = Path(__file__).parent / "format1"
DECODED = {
    "a.two.weight": ("affine_u", 2, "a28b9c898cbaeb98"),
    "b.three.weight": ("affine_u", 3, "0c2029f9b51070da"),
    "c.four.weight": ("affine_u", 4, "2be41af2b069d6cb"),
    "d.eight.weight": ("affine_u", 8, "5909fdaf9fe35cc3"),
    "e.symmetric.weight": ("sym_s", 4, "979864ae2a8dd7b3"),
    "f.norm.weight": ("raw", 0, "ef6055ca49e4d340"),
    "g.steps": ("raw", 0, "281b02b10f5f4997"),
    "h.tied.weight": ("affine_u", 4, "41038c4d7ae45f9a"),
}


def test_an_old_artifact_opens_and_decodes() -> None:
    with arrowquant.open(OLD) as model:
        assert model.manifest["format_version"] == 1
        assert model.verify().ok
        found = {
            name: (t.codec, t.bits, hashlib.sha256(t.dequantize().tobytes()).hexdigest()[:16])
            for name, t in model.items()
        }
    assert found == DECODED


@pytest.mark.parametrize("version", [1, 2])
def test_a_part_is_of_the_version_that_the_manifest_says(tmp_path: Path, version: int) -> None:
    """A part of the other version is refused even where all of its tiles would fit."""
    folder = fixtures.write_artifact(
        tmp_path / "out", [naive.quantized("w", (4, 40), "affine_u", 4, 32)]
    )
    manifest = fixtures.read_manifest(folder)
    if version == 2:
        manifest["parts"] = fixtures.read_manifest(OLD)["parts"]
        (folder / "part-00000.arrow").write_bytes((OLD / "part-00000.arrow").read_bytes())
    else:
        manifest["format_version"] = 1
    fixtures.write_manifest(folder, manifest)
    with pytest.raises(ArtifactError, match=f"expected {version}"):
        arrowquant.open(folder)["w"].dequantize()
