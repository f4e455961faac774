"""Columns of codecs that say what cannot be: every failure is an ArtifactError that names it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arrowquant
from arrowquant import ArtifactError
from tests.client import fixtures, naive
from tests.client.refusing import refused


def other(tmp_path: Path, kind: str, **changes: Any) -> Path:
    """As `one`, of another codec."""
    made = {
        "superblock": lambda: naive.superblock("w", (4, 40), 2, 16, 4, seed=1),
        "codebook": lambda: naive.codebook("w", (4, 40), 4, 32, seed=1),
        "trellis": lambda: naive.trellis("w", (4, 40), 2, seed=1),
        "turned": lambda: naive.turned(
            naive.quantized("w", (4, 40), "affine_u", 4, 32), 8, 1, np.ones(40, np.float32)
        ),
        "raw": lambda: naive.raw("w", np.ones((4, 40), np.float32), "F32"),
    }
    tensor = made[kind]()
    tensor.rows[0].update(changes)
    return fixtures.write_artifact(tmp_path / "other", [tensor])


def spun(**changes: Any) -> dict[str, Any]:
    return {"kind": "hadamard", "block": 8, "seed": 1} | changes


@pytest.mark.parametrize(
    ("kind", "changes", "words"),
    [
        ("superblock", {"scale_codes": None}, ["scale_codes is missing for codec superblock"]),
        ("superblock", {"min_codes": None}, ["min_codes is missing"]),
        ("superblock", {"scale_codes": b"123"}, ["3 bytes of scale_codes, need 8"]),
        ("superblock", {"min_codes": b""}, ["0 bytes of min_codes"]),
        ("superblock", {"scale_bits": None}, ["scale_bits is 0, expected 4 or 6"]),
        ("superblock", {"scale_bits": 5}, ["scale_bits is 5"]),
        ("superblock", {"scale_bits": 6}, ["need 12"]),
        ("superblock", {"scale_bits": -4}, ["scale_bits is -4"]),
        ("superblock", {"scales": np.ones(12, np.float16)}, ["12 scales", "need 4"]),
        ("superblock", {"mins": None}, ["mins is missing"]),
        ("superblock", {"codebook": np.ones(4, np.float32)}, ["codebook is present"]),
        ("codebook", {"codebook": None}, ["codebook is missing"]),
        ("codebook", {"codebook": np.ones(15, np.float32)}, ["15 codebook", "need 16"]),
        ("codebook", {"codebook": [None] * 16}, ["16 null"]),
        ("codebook", {"scale_bits": 4}, ["scale_bits is 4, expected none"]),
        ("codebook", {"scale_codes": b"1"}, ["scale_codes is present for codec codebook"]),
        ("trellis", {"scales": np.ones(8, np.float16)}, ["8 scales", "need 4"]),
        ("trellis", {"row_stride_bytes": 11, "codes": bytes(44)}, ["rows of 11 bytes", "need 10"]),
        ("trellis", {"codebook": np.ones(4, np.float32)}, ["codebook is present"]),
        ("turned", {"rotation": spun(kind="givens")}, ["rotation 'givens' is not known"]),
        ("turned", {"rotation": spun(block=16)}, ["blocks of 16 do not divide 40 columns"]),
        ("turned", {"rotation": spun(block=5)}, ["blocks of 5"]),
        ("turned", {"rotation": spun(block=0)}, ["blocks of 0"]),
        ("turned", {"rotation": spun(block=-8)}, ["blocks of -8"]),
        ("turned", {"rotation": spun(block=2**30)}, ["blocks of 1073741824"]),
        ("turned", {"rotation": spun(seed=-1)}, ["seed -1 is negative"]),
        ("turned", {"rotation": spun(seed=None)}, ["a rotation that is not possible"]),
        ("turned", {"rotation": spun(kind=None)}, ["a rotation that is not possible"]),
        ("turned", {"col_scale": np.ones(39, np.float32)}, ["39 col_scale", "need 40"]),
        ("turned", {"col_scale": np.zeros(40, np.float32)}, ["cannot be divided by"]),
        ("turned", {"col_scale": np.full(40, np.nan, np.float32)}, ["cannot be divided by"]),
        ("turned", {"bias_correction": np.ones(5, np.float32)}, ["5 bias_correction", "need 4"]),
        ("raw", {"rotation": spun()}, ["not possible with codec raw"]),
        ("raw", {"col_scale": np.ones(40, np.float32)}, ["col_scale is present for codec raw"]),
        ("raw", {"scale_codes": b"x"}, ["scale_codes is present for codec raw"]),
    ],
)  # fmt: skip
def test_columns_of_codecs_that_do_not_fit(
    tmp_path: Path, kind: str, changes: dict[str, Any], words: list[str]
) -> None:
    assert refused(other(tmp_path, kind, **changes), *words).code == "invalid_artifact"


_COUNTS = st.none() | st.integers(0, 70)
_HOSTILE: dict[str, st.SearchStrategy[Any]] = {
    "scale_bits": st.none() | st.integers(-(2**15), 2**15 - 1),
    "scale_codes": _COUNTS.map(lambda n: None if n is None else b"x" * n),
    "min_codes": _COUNTS.map(lambda n: None if n is None else b"x" * n),
    "codebook": _COUNTS.map(lambda n: None if n is None else [0.5] * n),
    "scales": _COUNTS.map(lambda n: None if n is None else np.ones(n, np.float16)),
    "mins": _COUNTS.map(lambda n: None if n is None else np.ones(n, np.float16)),
    "col_scale": _COUNTS.map(lambda n: None if n is None else [2.0] * n),
    "bias_correction": _COUNTS.map(lambda n: None if n is None else [2.0] * n),
    "rotation": st.none()
    | st.fixed_dictionaries(
        {
            "kind": st.sampled_from(["hadamard", "", "x"]) | st.none(),
            "block": st.integers(-(2**31), 2**31 - 1) | st.sampled_from([2, 8]),
            "seed": st.integers(-(2**63), 2**63 - 1),
        }
    ),
    "row_stride_bytes": st.integers(-5, 70),
    "cols": st.integers(-5, 70),
    "rows": st.integers(-5, 9),
}


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["superblock", "codebook", "trellis", "turned", "raw"]),
    changes=st.dictionaries(st.sampled_from(sorted(_HOSTILE)), st.none(), min_size=1, max_size=3),
    data=st.data(),
)
def test_odd_columns_never_crash(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    changes: dict[str, None],
    data: st.DataObject,
) -> None:
    """Whatever the columns say, it is either refused or decodes to the shape of the tensor."""
    drawn = {name: data.draw(_HOSTILE[name]) for name in changes}
    folder = other(tmp_path_factory.mktemp("odd"), kind, **drawn)
    try:
        with arrowquant.open(folder) as model, np.errstate(all="ignore"):
            assert model["w"].dequantize().shape == (4, 40)
        arrowquant.verify(folder)
    except ArtifactError:
        pass
