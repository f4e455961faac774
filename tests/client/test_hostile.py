"""Artifacts that are damaged, cut short or made to harm: every failure is an ArtifactError."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import arrowquant
from arrowquant import ArtifactError
from tests import hostile
from tests.client import fixtures, naive
from tests.client.refusing import read_all, refused


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return fixtures.write_artifact(
        tmp_path / "out", fixtures.sample_tensors(), parts=2, tied=fixtures.TIES
    )


def one(tmp_path: Path, **changes: Any) -> Path:
    """An artifact of one tile with some of its fields changed; the manifest is consistent."""
    tensor = naive.quantized("w", (4, 40), "affine_u", 4, 32, seed=1)
    tensor.rows[0].update(changes)
    return fixtures.write_artifact(tmp_path / "one", [tensor])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor": "other"}, ["tensor is 'other'", "batch 0", "part-00000.arrow"]),
        ({"rows": 5}, ["codes for 5 rows"]),
        ({"rows": -1}, ["rows is -1"]),
        ({"rows": 2**62, "row_stride_bytes": 4}, ["rows is"]),
        ({"rows": 0, "codes": b"", "scales": [], "mins": []}, ["do not fit"]),
        ({"cols": 0}, ["do not fit"]),
        ({"cols": 2**40}, ["do not fit"]),
        ({"cols": 41}, ["do not fit"]),
        ({"row_stride_bytes": 19}, ["do not fit 40 columns"]),
        ({"row_start": 1}, ["leaves rows out"]),
        ({"shape": [40, 4]}, ["shape is"]),
        ({"orig_dtype": "F16"}, ["orig_dtype is"]),
        ({"codec": "sym_s"}, ["codec is"]),
        ({"bits": 2}, ["bits is 2"]),
        ({"group_size": 64}, ["group_size is 64"]),
        ({"bit_order": "msb0"}, ["bit_order is"]),
        ({"codes": b"short"}, ["5 bytes of codes"]),
        ({"scales": np.ones(7, np.float16)}, ["7 scales"]),
        ({"scales": None}, ["scales is missing"]),
        ({"mins": None}, ["mins is missing"]),
        ({"mins": [None] * 8}, ["8 null"]),
        ({"crc32c": 1}, []),
    ],
)
def test_a_tile_that_does_not_fit(
    tmp_path: Path, changes: dict[str, Any], words: list[str]
) -> None:
    folder = one(tmp_path, **changes)
    if "crc32c" in changes:  # reading does not check it, verifying does
        read_all(folder)
        (problem,) = arrowquant.verify(folder).problems
        assert problem.code == "digest_mismatch"
        assert problem.where == {"part": "part-00000.arrow", "batch": 0, "tensor": "w"}
    else:
        assert refused(folder, *words).code == "invalid_artifact"


def edited(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    manifest = fixtures.read_manifest(folder)
    edit(manifest)
    fixtures.write_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize(
    ("edit", "word"),
    [
        (lambda m: m.update(format="zip"), "format is 'zip'"),
        (lambda m: m.update(format_version=3), "newer arrowquant"),
        (lambda m: m.update(format_version=True), "newer arrowquant"),
        (lambda m: m.update(format_version=1), "not known in version 1"),
        (lambda m: m.update(parts={}), "'parts' is not a list"),
        (lambda m: m["parts"][0].update(name="../../etc/passwd"), "part-NNNNN.arrow"),
        (lambda m: m["parts"][0].update(name="/dev/zero"), "part-NNNNN.arrow"),
        (lambda m: m["parts"][0].update(name="part-00009.arrow"), "missing"),
        (lambda m: m["parts"][0].update(bytes=-1), "whole number"),
        (lambda m: m["parts"][0].update(bytes=True), "whole number"),
        (lambda m: m["parts"][0].update(bytes=10), "the manifest says 10"),
        (lambda m: m["parts"][0].update(sha256="x"), "sha256"),
        (lambda m: m["parts"][0].update(batches=1), "the manifest says 1"),
        (lambda m: m["parts"].append(m["parts"][0]), "listed twice"),
        (lambda m: m["tensors"].append(m["tensors"][0]), "listed twice"),
        (lambda m: m["tensors"].append(5), "not an object"),
        (lambda m: m["tensors"][0].update(name=""), "characters"),
        (lambda m: m["tensors"][0].update(shape=[2**40, 2**40]), "sensible size"),
        (lambda m: m["tensors"][0].update(shape=[0, 2**62, 2**62]), "sensible size"),
        (lambda m: m["tensors"][0].update(shape=[-1]), "whole numbers"),
        (lambda m: m["tensors"][0].update(shape=[1] * 99), "sizes"),
        (lambda m: m["tensors"][0].update(shape=[13, 200]), "shape is"),
        (lambda m: m["tensors"][0].update(dtype="F99"), "not known"),
        (lambda m: m["tensors"][0].update(dtype=["F32"]), "not known"),
        (lambda m: m["tensors"][0].update(codec="magic"), "not known"),
        (lambda m: m["tensors"][0].update(bits=64), "do not go with"),
        (lambda m: m["tensors"][0].update(group_size=-2), "not possible"),
        (lambda m: m["tensors"][0].update(part_tiles=[[99, 0]]), "part 99 of 2"),
        (lambda m: m["tensors"][0].update(part_tiles=[[0, 10**9]]), "batches"),
        (lambda m: m["tensors"][0].update(part_tiles=[[0, 0], [0, 0]]), "twice"),
        (lambda m: m["tensors"][0].update(part_tiles=[]), "no tile"),
        (lambda m: m["tensors"][0]["part_tiles"].pop(), "elements"),
        (lambda m: m["tensors"][0]["part_tiles"].pop(1), "leaves rows out"),
        (lambda m: m.update(tied={"x": "nothing"}), "not stored"),
        (lambda m: m.update(tied={"x": "y", "y": "x"}), "not stored"),
        (lambda m: m.update(tied=["x"]), "names to names"),
        (lambda m: m.update(tied={"a.q4": "d.q8"}), "differ"),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit(
    good: Path, edit: Callable[[dict[str, Any]], Any], word: str
) -> None:
    refused(edited(good, edit), word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"format": ', "byte 11"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[" * 100_000, "JSON"),
        (b'{"format": ' + b"9" * 5000 + b"}", "JSON"),
    ],
)
def test_a_manifest_that_is_no_json(good: Path, text: bytes, word: str) -> None:
    (good / "manifest.json").write_bytes(text)
    with pytest.raises(ArtifactError, match="invalid_artifact") as failure:
        arrowquant.open(good)
    assert word in str(failure.value)


def test_limits_on_json(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arrowquant.artifact.schema.MAX_MANIFEST_BYTES", 100)
    with pytest.raises(ArtifactError, match="more than 100 bytes"):
        arrowquant.open(good)


def test_a_report_that_was_changed(good: Path) -> None:
    (good / "report.json").write_text("{}")
    with pytest.raises(ArtifactError, match="digest_mismatch"):
        _ = arrowquant.open(good).report
    assert [p.code for p in arrowquant.verify(good).problems] == ["digest_mismatch"]


def replace_part(folder: Path, write: Callable[[Path], object]) -> Path:
    """Put another part in place, with a manifest that agrees."""
    path = folder / "part-00000.arrow"
    write(path)
    manifest = fixtures.read_manifest(folder)
    manifest["parts"][0] = fixtures.part_entry(path, manifest["parts"][0]["batches"])
    fixtures.write_manifest(folder, manifest)
    return folder


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_buffers_are_refused(
    tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A body of some bytes that says it holds 8 GiB: Arrow is never asked to read it."""
    folder = one(tmp_path)
    replace_part(folder, lambda path: hostile.write_bomb(path, naive.SCHEMA, codec))
    opened = pa.ipc.open_file
    asked: list[object] = []
    monkeypatch.setattr(pa.ipc, "open_file", lambda file: asked.append(file) or opened(file))
    refused(folder, "compressed", "batch 0")
    assert asked == []


@pytest.mark.parametrize("attack", hostile.ATTACKS)
def test_metadata_that_is_made_to_harm(
    tmp_path: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = one(tmp_path)
    data = (folder / "part-00000.arrow").read_bytes()
    replace_part(folder, lambda path: path.write_bytes(hostile.ATTACKS[attack](data)))
    opened = pa.ipc.open_file
    asked: list[object] = []
    monkeypatch.setattr(pa.ipc, "open_file", lambda file: asked.append(file) or opened(file))
    refused(folder, "part-00000.arrow")
    assert asked == []


@pytest.mark.parametrize(
    "kind", ["extension", "dictionary", "order", "type", "version", "metadata", "deep", "endless"]
)
def test_other_schemas_are_refused(tmp_path: Path, kind: str) -> None:
    folder = one(tmp_path)
    schema = naive.SCHEMA
    index = schema.get_field_index("role")
    if kind == "extension":
        schema = schema.set(index, pa.field("role", pa.json_(), False))
    elif kind == "dictionary":
        schema = schema.set(index, pa.field("role", pa.dictionary(pa.int8(), pa.string()), False))
    elif kind == "order":
        schema = pa.schema(list(schema)[::-1], schema.metadata)
    elif kind == "type":
        schema = schema.set(index, pa.field("role", pa.large_string(), False))
    elif kind == "deep":
        inner = functools.reduce(lambda kind, _: pa.list_(kind), range(60), pa.int64())
        schema = pa.schema([pa.field("role", inner)], schema.metadata)
    elif kind == "endless":
        schema = pa.schema([pa.field("role", pa.string())] * 100_000, schema.metadata)
    elif kind == "version":
        schema = schema.with_metadata({"arrowquant.format": "1"})
    else:
        schema = schema.set(index, pa.field("role", pa.string(), False, {"a": "b"}))
    rows = naive.quantized("w", (4, 40), "affine_u", 4, 32, seed=1).rows
    rows = [] if kind in ("deep", "endless") else rows
    refused(replace_part(folder, lambda path: fixtures.write_part(path, rows, schema)))


def test_two_rows_in_a_batch_are_refused(tmp_path: Path) -> None:
    folder = one(tmp_path)
    row = naive.quantized("w", (4, 40), "affine_u", 4, 32, seed=1).rows[0]

    def write(path: Path) -> None:
        with pa.ipc.new_file(str(path), naive.SCHEMA) as writer:
            arrays = [pa.array([row[f.name]] * 2, f.type) for f in naive.SCHEMA]
            writer.write_batch(pa.record_batch(arrays, schema=naive.SCHEMA))

    refused(replace_part(folder, write), "2 rows, not 1")


@pytest.mark.parametrize(
    "content", [b"", b"ARROW1", b"ARROW1\0\0" + b"\0" * 100, b"PK\x03\x04" * 20]
)
def test_files_that_are_no_arrow(tmp_path: Path, content: bytes) -> None:
    folder = one(tmp_path)
    refused(replace_part(folder, lambda path: path.write_bytes(content)), "part-00000")


def test_a_truncated_part(tmp_path: Path) -> None:
    folder = one(tmp_path)
    path = folder / "part-00000.arrow"
    data = path.read_bytes()
    path.write_bytes(data[:-100])
    refused(folder, "the manifest says", "fetch the artifact again")
    for size in (*range(0, len(data), 97), len(data) - 1):
        cut = data[:size]
        refused(replace_part(folder, functools.partial(Path.write_bytes, data=cut)))


def test_a_part_that_is_no_regular_file(tmp_path: Path) -> None:
    folder = one(tmp_path)
    (folder / "part-00000.arrow").unlink()
    (folder / "part-00000.arrow").mkdir()
    refused(folder, "missing")


@settings(
    max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(seed=st.integers(0, 2**32))
def test_flipped_bytes_never_crash(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """The manifest agrees with the damage, so that all of it reaches the parser."""
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("flip")
    tensors = [t for t in fixtures.sample_tensors() if t.name in ("a.q4", "e.s4", "k.ids")]
    fixtures.write_artifact(folder, tensors)
    data = bytearray((folder / "part-00000.arrow").read_bytes())
    # Half of the time in the footer, where the structure is.
    low = len(data) - 2000 if rng.random() < 0.5 else 0
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(max(low, 0), len(data))] = rng.randrange(256)
    replace_part(folder, lambda path: path.write_bytes(data))
    try:
        read_all(folder)
    except ArtifactError:
        pass
    try:
        arrowquant.verify(folder)
    except ArtifactError:
        pass


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_odd_manifests_never_crash(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("odd")
    fixtures.write_artifact(folder, [naive.quantized("w", (4, 40), "affine_u", 4, 32)])
    text = json.dumps(fixtures.read_manifest(folder))
    manifest = json.loads(text)
    holder = data.draw(st.sampled_from([manifest, manifest["parts"][0], manifest["tensors"][0]]))
    key = data.draw(st.sampled_from(sorted(holder)))
    leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    holder[key] = data.draw(st.recursive(leaf, lambda inner: st.lists(inner, max_size=3)))
    fixtures.write_manifest(folder, manifest)
    try:
        read_all(folder)
        arrowquant.verify(folder)
    except ArtifactError:
        pass
