"""Headers are untrusted: whatever the bytes, the answer is a list of tensors or a named error."""

from __future__ import annotations

import json
import math
import pickle
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.domain.errors import ArrowQuantError
from service.domain.safetensors import (
    DTYPE_BITS,
    MAX_HEADER_BYTES,
    MAX_NAME_CHARS,
    MAX_RANK,
    HeaderTensor,
    header_length,
    parse_header,
)

KEY = "m/model.safetensors"
ALLOWED = {"unsupported_format", "invalid_safetensors_header", "unsupported_dtype"}


def entry(dtype: str, shape: list[int], start: int, stop: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


def framed(header: Any, data: int) -> tuple[bytes, int]:
    """A header with its length before it, and the size of an object with `data` bytes of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text, 8 + len(text) + data


def parse(header: Any, data: int) -> list[HeaderTensor]:
    content, size = framed(header, data)
    length = header_length(content[:32], size, KEY)
    return parse_header(content[8 : 8 + length], size, KEY)


def code_of(header: Any, data: int) -> str:
    with pytest.raises(ArrowQuantError) as caught:
        parse(header, data)
    assert caught.value.where["object"] == KEY
    json.dumps(caught.value.as_dict()).encode()
    return caught.value.code


def test_tensors_come_in_the_order_of_their_bytes() -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "second": entry("F32", [2, 2], 4, 20),
        "first": entry("U8", [4], 0, 4),
        "empty": entry("F16", [0, 7], 20, 20),
        "scalar": entry("F64", [], 20, 28),
        "half bytes": entry("F4", [2, 3], 28, 31),
    }
    tensors = parse(header, 31)
    assert [t.name for t in tensors] == ["first", "second", "empty", "scalar", "half bytes"]
    start = 8 + len(json.dumps(header))
    assert tensors[1] == HeaderTensor("second", "F32", (2, 2), start + 4, start + 20)


def test_an_object_may_hold_no_tensors() -> None:
    assert parse({}, 0) == []


def test_padding_after_the_header() -> None:
    text = json.dumps({"a": entry("U8", [3], 0, 3)}).encode()
    assert len(parse(text + b" " * 13, 3)) == 1


def tried(content: bytes, size: int) -> tuple[list[HeaderTensor], str]:
    """The tensors, or the code of the error."""
    try:
        length = header_length(content[:32], size, KEY)
        return parse_header(content[8 : 8 + length], size, KEY), ""
    except ArrowQuantError as error:
        json.dumps(error.as_dict()).encode()
        return [], error.code


WRONG: dict[str, tuple[Any, int]] = {
    "a gap": ({"a": entry("U8", [1], 0, 1), "b": entry("U8", [1], 2, 3)}, 3),
    "a gap at the start": ({"a": entry("U8", [1], 1, 2)}, 2),
    "an overlap": ({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 1, 3)}, 3),
    "the same bytes twice": ({"a": entry("U8", [2], 0, 2), "b": entry("U8", [2], 0, 2)}, 2),
    "a truncated object": ({"a": entry("U8", [9], 0, 9)}, 8),
    "bytes at the end": ({"a": entry("U8", [9], 0, 9)}, 10),
    "shape and range differ": ({"a": entry("F32", [3], 0, 9)}, 9),
    "half a byte": ({"a": entry("F4", [3], 0, 2)}, 2),
    "backwards": ({"a": entry("U8", [1], 1, 0)}, 1),
    "negative": ({"a": entry("U8", [-1], 0, 0)}, 0),
    "negative twice": ({"a": entry("U8", [-1, -4], 0, 4)}, 4),
    "negative start": ({"a": entry("U8", [1], -1, 0)}, 1),
    "a boolean": ({"a": {"dtype": "U8", "shape": [True], "data_offsets": [0, 1]}}, 1),
    "a float": ({"a": {"dtype": "U8", "shape": [1.0], "data_offsets": [0, 1]}}, 1),
    "three offsets": ({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, 1),
    "no shape": ({"a": {"dtype": "U8", "data_offsets": [0, 1]}}, 1),
    "one field more": ({"a": entry("U8", [1], 0, 1) | {"extra": 1}}, 1),
    "an overflow of 64 bits": ({"a": entry("U8", [2**32, 2**32], 0, 0)}, 0),
    "a large dimension": ({"a": entry("U8", [2**48 + 1], 0, 2**48 + 1)}, 2**48 + 1),
    "a zero hides a large one": ({"a": entry("U8", [2**63, 0], 0, 0)}, 0),
    "a rank": ({"a": entry("U8", [1] * (MAX_RANK + 1), 0, 1)}, 1),
    "an empty name": ({"": entry("U8", [1], 0, 1)}, 1),
    "a long name": ({"n" * (MAX_NAME_CHARS + 1): entry("U8", [1], 0, 1)}, 1),
    "a name with a zero": ({"a\0b": entry("U8", [1], 0, 1)}, 1),
    "a name that is not Unicode": (b'{"\\ud800":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
    "an array": ([1], 0),
    "an entry that is a number": ({"a": 3}, 0),
    "metadata of numbers": ({"__metadata__": {"a": 1}}, 0),
    "metadata that is a list": ({"__metadata__": []}, 0),
    "twice the same name": (
        b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},'
        b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
        1,
    ),
    "twice the same field": (
        b'{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}', 1
    ),
    "not JSON": (b"{'a': 1}", 0),
    "half of it": (b'{"a":{"dtype":"U8"', 0),
    "not UTF-8": (b'{"\xff":1}', 0),
    "NaN": (b'{"a":{"dtype":"U8","shape":[NaN],"data_offsets":[0,1]}}', 1),
    "nesting": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0),
    "nesting of objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 0),
    "digits": (b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}', 1),
    "space first": (b' {"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_wrong_headers(what: str) -> None:
    assert code_of(*WRONG[what]) == "invalid_safetensors_header"


@pytest.mark.parametrize("dtype", ["F128", "f32", "", "COMPLEX", "F8_E4M3\n"])
def test_unknown_dtypes(dtype: str) -> None:
    assert code_of({"a": entry(dtype, [1], 0, 1)}, 1) == "unsupported_dtype"


@pytest.mark.parametrize("dtype", [None, 3, ["F32"], {}])
def test_dtypes_of_another_type(dtype: Any) -> None:
    assert code_of({"a": entry(dtype, [1], 0, 1)}, 1) == "unsupported_dtype"


MAGICS = {
    "pickle 2": pickle.dumps({"w": [1.0] * 20}, 2),
    "pickle 3": pickle.dumps({"w": [1.0] * 20}, 3),
    "pickle 4": pickle.dumps({"w": [1.0] * 20}, 4),
    "pickle 5": pickle.dumps({"w": [1.0] * 20}, 5),
    "zip": b"PK\x03\x04\x00\x00\x08\x08\x00\x00archive/data.pkl",
    "gguf": b"GGUF\x03\x00\x00\x00" + bytes(24),
    "gguf with a small count": b"GGUF" + bytes(28),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(24),
    "numpy": b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'" + bytes(8),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(28),
    "arrow": b"ARROW1\0\0" + bytes(24),
    "lfs": b"version https://git-lfs.github.com/spec/v1\n",
    "html": b"<!DOCTYPE html><html><body>404 not found",
    "pickle 0": pickle.dumps({"weights": [1.0] * 20}, 0),
}


@pytest.mark.parametrize("name", MAGICS)
def test_other_formats_are_told_by_their_content(name: str) -> None:
    with pytest.raises(ArrowQuantError) as caught:
        header_length(MAGICS[name][:32], 10**6, KEY)
    assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x580, 0x10280, 0x8B1F])
def test_a_length_may_look_like_a_magic_number(length: int) -> None:
    """A header of 640 bytes begins with the two bytes of a pickle."""
    text = json.dumps({"a": entry("U8", [3], 0, 3)}).encode().ljust(length)
    assert [tensor.name for tensor in parse(text, 3)] == ["a"]


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 2**63, 2**64 - 1])
def test_large_headers_are_not_read(length: int) -> None:
    with pytest.raises(ArrowQuantError) as caught:
        header_length(length.to_bytes(8, "little") + b'{"' + bytes(22), 2**64, KEY)
    assert caught.value.code == "unsupported_format"


@pytest.mark.parametrize("size", range(11))
def test_objects_shorter_than_their_header(size: int) -> None:
    content = ((100).to_bytes(8, "little") + b'{"')[:size]
    with pytest.raises(ArrowQuantError) as caught:
        header_length(content, size, KEY)
    assert caught.value.code == "invalid_safetensors_header"


# -- by chance -------------------------------------------------------------------------------------


@st.composite
def valid(draw: st.DrawFn) -> tuple[dict[str, Any], int]:
    """A header that is right, and the bytes of data it describes."""
    header: dict[str, Any] = {}
    position = 0
    names = draw(st.lists(st.text("abc.0é", min_size=1, max_size=12), unique=True, max_size=6))
    for name in names:
        dtype = draw(st.sampled_from(sorted(DTYPE_BITS)))
        shape = draw(st.lists(st.integers(0, 9), max_size=4))
        bits = math.prod(shape) * DTYPE_BITS[dtype]
        if bits % 8:
            shape = [*shape, 8]
            bits *= 8
        header[name] = entry(dtype, shape, position, position + bits // 8)
        position += bits // 8
    return header, position


@given(valid())
def test_right_headers_are_accepted(drawn: tuple[dict[str, Any], int]) -> None:
    header, data = drawn
    tensors = parse(header, data)
    assert {t.name for t in tensors} == set(header)
    assert sum(t.stop - t.start for t in tensors) == data


@given(
    valid(),
    st.lists(
        st.tuples(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 6)), max_size=5
    ),
    st.integers(-3, 3),
)
@example(({}, 0), [(8, b"{" * 6, 6)], 0)
def test_damaged_headers_give_named_errors(
    drawn: tuple[dict[str, Any], int], edits: list[tuple[int, bytes, int]], extra: int
) -> None:
    content, size = framed(*drawn)
    for at, put, drop in edits:
        where = at % (len(content) + 1)
        content = content[:where] + put + content[where + drop :]
    size = max(0, size + extra)
    tensors, code = tried(content, size)
    assert code in ALLOWED | {""}
    assert all(8 <= t.start <= t.stop <= size for t in tensors)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["F32", "dtype", "shape", "data_offsets"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=6), _JSON, max_size=4), st.integers(0, 100))
def test_any_json_gives_tensors_or_a_named_error(header: dict[str, Any], data: int) -> None:
    assert tried(*framed(header, data))[1] in ALLOWED | {""}


@given(st.binary(max_size=64), st.integers(0, 2**64))
def test_any_bytes_give_a_length_or_a_named_error(head: bytes, size: int) -> None:
    code, length = "", 2
    try:
        length = header_length(head[: min(32, size)], size, KEY)
    except ArrowQuantError as error:
        code = error.code
    assert code in ALLOWED | {""}
    assert 2 <= length <= max(2, min(MAX_HEADER_BYTES, size - 8))
