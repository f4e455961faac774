"""activations.arrow: looked up by time, and refused when it is not what it should be."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import arrowquant
from arrowquant.artifact import activations
from tests.client import fixtures

FIELDS = [
    pa.field("layer", pa.string(), False),
    pa.field("branch", pa.string(), False),
    pa.field("group", pa.int32(), False),
    pa.field("t_lo", pa.float64(), False),
    pa.field("t_hi", pa.float64(), False),
    pa.field("bits", pa.int16(), False),
    pa.field("symmetric", pa.bool_(), False),
    pa.field("granularity", pa.string(), False),
    pa.field("scale", pa.float32(), False),
    pa.field("zero_point", pa.int32(), False),
    pa.field("count", pa.int64(), False),
    pa.field("error", pa.float32()),
]
HEAD = {"version": 1, "domain": "timestep", "mode": "static", "boundaries": [0, 100, 1000]}


def row(layer: str = "a.weight", group: int = 0, **changes: Any) -> dict[str, Any]:
    times = ((0.0, 100.0), (100.0, 1000.0))[min(group, 1)]
    return {
        "layer": layer,
        "branch": "",
        "group": group,
        "t_lo": times[0],
        "t_hi": times[1],
        "bits": 4,
        "symmetric": False,
        "granularity": "per_tensor",
        "scale": (0.5, 0.25)[min(group, 1)],
        "zero_point": 3,
        "count": 10,
        "error": 0.01,
    } | changes


def table(rows: list[dict[str, Any]], head: Any = HEAD, fields: list[pa.Field] = FIELDS) -> bytes:
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    schema = pa.schema(fields, metadata={b"arrowquant.activations": text})
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    return sink.getvalue()


TWO = [row(), row(group=1)]


@pytest.mark.parametrize(
    ("t", "scale"), [(-5, 0.5), (0, 0.5), (99.9, 0.5), (100, 0.25), (1000, 0.25), (1e9, 0.25)]
)
def test_a_time_belongs_to_one_group(t: float, scale: float) -> None:
    found = activations.parse(table(TWO)).find("a.weight", t)
    assert (found.scale, found.mode, found.granularity) == (scale, "static", "per_tensor")


def test_what_was_found_best_can_be_set_aside() -> None:
    known = activations.parse(table(TWO, HEAD | {"mode": "dynamic_per_token"}))
    assert known.mode == "dynamic_per_token"
    best = known.find("a.weight", 5)
    assert (best.scale, best.zero_point, best.granularity) == (None, None, "per_token")
    assert known.find("a.weight", 5, mode="static").scale == 0.5


def test_branches_of_guidance() -> None:
    rows = [row(branch="cond", scale=1.0), row(branch="uncond", scale=2.0), row("b.weight")]
    known = activations.parse(table(rows))
    assert known.layers == ("a.weight", "b.weight")
    assert known.find("a.weight", 0, branch="uncond").scale == 2.0
    assert known.find("b.weight", 0, branch="uncond").scale == 0.5
    with pytest.raises(arrowquant.ArtifactError, match="there are 'cond', 'uncond'"):
        known.find("a.weight", 0)
    with pytest.raises(arrowquant.ArtifactError, match="saw no input"):
        known.find("c.weight", 0)
    with pytest.raises(ValueError, match="finite"):
        known.find("b.weight", float("nan"))


def test_static_codes() -> None:
    found = activations.parse(table(TWO)).find("a.weight", 0)
    x = np.array([[-9.0, -1.5, -0.3, 0.0, 0.26, 6.0, 7.0]], np.float32)
    codes, scale, zero = found.quantize(x)
    assert codes.tolist() == [[0, 0, 2, 3, 4, 15, 15]]
    assert (float(scale), int(zero)) == (0.5, 3)
    assert found.simulate(x).tolist() == [[-1.5, -1.5, -0.5, 0.0, 0.5, 6.0, 6.0]]


@pytest.mark.parametrize("symmetric", [False, True])
def test_dynamic_codes_lose_at_most_a_step_for_each_token(symmetric: bool) -> None:
    known = activations.parse(table([row(bits=8, symmetric=symmetric)]))
    found = known.find("a.weight", 0, mode="dynamic_per_token")
    x = np.random.default_rng(1).standard_normal((3, 5, 64)).astype(np.float32)
    x[0] *= 100
    x[1, 2] = 0
    codes, scale, zero = found.quantize(x)
    assert codes.shape == x.shape
    assert scale.shape == zero.shape == (3, 5, 1)
    assert np.all(np.abs(found.simulate(x) - x) <= scale * 1.001)
    assert not found.simulate(x)[1, 2].any()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "no Arrow file"),
        (b"ARROW1" + bytes(100), "no Arrow file"),
        (table(TWO)[:-40], "no Arrow file"),
        (table(TWO, b"{"), "no JSON"),
        (table(TWO, [1]), "no JSON object"),
        (table(TWO, HEAD | {"version": 9}), "version 9"),
        (table(TWO, HEAD | {"mode": "other"}), "names no mode"),
        (table([row(bits=1)]), "1 bits"),
        (table([row(bits=17)]), "17 bits"),
        (table([row(scale=0.0)]), "scale"),
        (table([row(scale=float("nan"))]), "scale"),
        (table([row(zero_point=16)]), "zero point"),
        (table([row(zero_point=-1)]), "zero point"),
        (table([row(t_hi=float("inf"))]), "time"),
        (table([row(t_lo=200.0)]), "ends before"),
        (table([row(group=1)]), "not numbered"),
        (table([row(), row(group=1, t_lo=50.0)]), "adjoin"),
        (table([row(), row()]), "not numbered"),
    ],
)
def test_what_is_wrong_is_named(data: bytes, said: str) -> None:
    with pytest.raises(arrowquant.ArtifactError, match=said) as failure:
        activations.parse(data)
    assert failure.value.where["file"] == "activations.arrow"


def test_columns_are_as_they_should_be() -> None:
    rows = [{k: v for k, v in each.items() if k != "count"} for each in TWO]
    fewer = [field for field in FIELDS if field.name != "count"]
    with pytest.raises(arrowquant.ArtifactError, match="columns"):
        activations.parse(table(rows, fields=fewer))
    loose = [field.with_nullable(True) for field in FIELDS]
    with pytest.raises(arrowquant.ArtifactError, match="missing"):
        activations.parse(table([row(scale=None)], fields=loose))


def test_the_file_is_the_one_that_the_manifest_names(tmp_path: Path) -> None:
    sample = fixtures.write_artifact(tmp_path / "out", fixtures.sample_tensors())
    data = table(TWO)
    path = sample / "activations.arrow"
    manifest = json.loads((sample / "manifest.json").read_text())
    entry = {"name": path.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (sample / "manifest.json").write_text(json.dumps(manifest | {"activations": entry}))
    with pytest.raises(arrowquant.ArtifactError, match="without calibration"):
        arrowquant.open(sample).activation("a.weight", 3)
    path.write_bytes(data)
    model = arrowquant.open(sample)
    assert model.activation("a.weight", 500).scale == 0.25
    assert model.activation("a.weight", 500, mode="dynamic_per_token").scale is None
    path.write_bytes(table([row()]))
    with pytest.raises(arrowquant.ArtifactError, match="SHA-256"):
        arrowquant.open(sample).activation("a.weight", 500)
