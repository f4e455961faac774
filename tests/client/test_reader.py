"""`arrowquant.open` and decoding."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import arrowquant
from arrowquant.artifact import codecs, decode
from arrowquant.artifact.tile import Tile
from tests.client import fixtures, naive


@pytest.fixture(scope="module", params=[True, False], ids=["indexed", "scanned"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fixtures.write_artifact(
        tmp_path_factory.mktemp("art") / "out",
        fixtures.sample_tensors(),
        parts=3,
        tied=fixtures.TIES,
        part_tiles=request.param,
    )


def test_every_tensor_decodes_as_the_formula_says(sample: Path) -> None:
    with arrowquant.open(sample) as model:
        for stored in fixtures.sample_tensors():
            tensor = model[stored.name]
            values = tensor.dequantize()
            assert stored.expected is not None
            assert values.dtype == stored.expected.dtype
            assert values.shape == tensor.shape == stored.shape
            np.testing.assert_array_equal(values, stored.expected, err_msg=stored.name)
            assert tensor.stored_bytes == fixtures.stored_bytes(stored)
            assert tensor.nbytes == math.prod(stored.shape) * naive.WIDTH[stored.dtype]


def test_it_is_a_mapping(sample: Path) -> None:
    model = arrowquant.open(sample / "manifest.json")
    names = [t.name for t in fixtures.sample_tensors()]
    assert list(model.keys()) == [*names, "lm_head.weight"]
    assert "a.q4" in model
    assert model.get("nothing") is None
    with pytest.raises(KeyError) as failure:
        model["nothing"]
    assert isinstance(failure.value, arrowquant.ArtifactError)
    assert failure.value.code == "tensor_not_found"
    tensor = model["a.q4"]
    assert (tensor.bits, tensor.codec, tensor.group_size, tensor.dtype) == (
        4,
        "affine_u",
        64,
        "F32",
    )
    assert (tensor.role, tensor.state, tensor.tied_to) == ("linear", "DONE", None)
    assert model.name == "tiny"
    assert model.manifest["totals"]["parameters"] > 0
    assert model.report["worst"]


def test_nothing_is_mapped_before_it_is_asked_for(sample: Path) -> None:
    model = arrowquant.open(sample)
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(sample) not in maps.read_text()
    assert "4 bits" in repr(model["a.q4"])


def test_a_tied_name_gives_the_values_it_shares(sample: Path) -> None:
    model = arrowquant.open(sample)
    tied = model["lm_head.weight"]
    np.testing.assert_array_equal(tied.dequantize(), model["embed.weight"].dequantize())
    assert (tied.state, tied.tied_to, tied.stored_bytes) == ("TIED", "embed.weight", 0)


def test_other_types(sample: Path) -> None:
    model = arrowquant.open(sample)
    tensor = model["a.q4"]
    single = tensor.dequantize("float32")
    np.testing.assert_array_equal(tensor.dequantize(np.float16), single.astype(np.float16))
    np.testing.assert_array_equal(tensor.dequantize(dtype=np.float64), single.astype(np.float64))
    brain = tensor.dequantize("bfloat16")
    assert brain.dtype == np.uint16
    near = (brain.astype(np.uint32) << 16).view(np.float32)
    assert np.abs(near - single).max() <= np.abs(single).max() * 2.0**-8
    assert model["k.ids"].dequantize(np.float32).dtype == np.int64
    stored = model["r.bf16"].dequantize("bfloat16")
    np.testing.assert_array_equal(
        (stored.astype(np.uint32) << 16).view(np.float32), model["r.bf16"].dequantize()
    )
    with pytest.raises(ValueError, match="float16"):
        tensor.dequantize(np.int8)


def test_out_is_filled_in_place(sample: Path) -> None:
    tensor = arrowquant.open(sample)["i.conv"]
    out = np.empty(tensor.shape, np.float32)
    assert tensor.dequantize(out=out) is out
    np.testing.assert_array_equal(out, tensor.dequantize())
    with pytest.raises(ValueError, match="out must be"):
        tensor.dequantize(out=out.reshape(-1))


def test_tiles_are_views(sample: Path) -> None:
    tensor = arrowquant.open(sample)["a.q4"]
    tiles = list(tensor.tiles())
    assert [tile.row_start for tile in tiles] == [0, 5, 10]
    for _, codes, scales, mins in tiles:
        assert scales is not None
        assert mins is not None
        assert not codes.flags.owndata
        assert not scales.flags.owndata
        assert scales.size == codes.shape[0] * 4


def test_arrays_outlive_the_artifact(sample: Path) -> None:
    model = arrowquant.open(sample)
    (_, codes, _, _), *_ = list(model["d.q8"].tiles())
    before = codes.copy()
    model.close()
    np.testing.assert_array_equal(codes, before)
    with pytest.raises(arrowquant.ArtifactError, match="closed"):
        model["d.q8"].dequantize()


def test_activations_are_named_when_absent(sample: Path) -> None:
    with pytest.raises(arrowquant.ArtifactError, match="without calibration") as failure:
        arrowquant.open(sample).activation("blocks.0", 10)
    assert failure.value.code == "no_activations"


def test_an_address_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(arrowquant.ArtifactError, match="arrowquant fetch"):
        arrowquant.open("s3://bucket/out")
    with pytest.raises(arrowquant.ArtifactError, match="no such folder"):
        arrowquant.open(tmp_path / "none")
    with pytest.raises(arrowquant.ArtifactError, match="written last"):
        arrowquant.open(tmp_path)


def test_errors_survive_pickling() -> None:
    error = arrowquant.ArtifactError("invalid_artifact", "broken", "Do.", {"part": "p", "byte": 3})
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again)) == (type(error), str(error))
    assert str(error) == "invalid_artifact: broken (part p, byte 3) Do."


@settings(max_examples=60)
@given(
    bits=st.integers(1, 8),
    rows=st.integers(1, 9),
    cols=st.integers(1, 90),
    group=st.sampled_from([-1, 0, 1, 7, 32, 64]),
    symmetric=st.booleans(),
    block=st.sampled_from([1, 16, 100, 2**18]),
    seed=st.integers(0, 2**32),
)
def test_decoding_equals_the_naive_loop(
    bits: int, rows: int, cols: int, group: int, symmetric: bool, block: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << bits, (rows, cols))
    size = 1 if group == -1 else rows * (-(-cols // group) if group else 1)
    scales = rng.normal(0, 10, size).astype(np.float16)
    mins = None if symmetric else rng.normal(0, 10, size).astype(np.float16)
    stride = (cols * bits + 7) // 8
    packed = np.frombuffer(naive.pack(codes, bits), np.uint8).reshape(rows, stride)
    codec = "sym_s" if symmetric else "affine_u"
    tile = Tile(
        "t", 0, 0, rows, cols, (rows, cols), "F32", "linear", codec, bits, group,
        packed, scales, mins, None, 0, {},
    )  # fmt: skip
    out = np.full((rows, cols), np.nan, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "BLOCK_WEIGHTS", block)
        for start, stop in decode.blocks(rows, cols, block):
            codecs.decode_rows(tile, start, stop, out[start:stop])
    want = naive.decode_naive(codes, scales, mins, bits, group)
    np.testing.assert_array_equal(out.view(np.uint32), want.view(np.uint32))


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, -0.0, np.inf, 3.4e38, np.nan], np.float32)
    got = decode.from_bfloat16(decode.to_bfloat16(values))
    want = np.array([1.0, 1.0, 1.0 + 2**-6, -0.0, np.inf, np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(got, want)
