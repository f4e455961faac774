"""Joining headers, reading indexes, and names that stay where they belong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.domain.catalog import (
    Catalog,
    ObjectInfo,
    assemble,
    check_index,
    parse_index,
)
from service.domain.errors import ArrowQuantError
from service.domain.location import clean_prefix, plain_name
from service.domain.safetensors import HeaderTensor

INDEX = "m/model.safetensors.index.json"


def shard(key: str, *names: str) -> tuple[ObjectInfo, list[HeaderTensor]]:
    tensors = [
        HeaderTensor(name, "F16", (2, 2), 100 + 8 * n, 108 + 8 * n) for n, name in enumerate(names)
    ]
    return ObjectInfo(key, 100 + 8 * len(names), "etag"), tensors


def catalog() -> Catalog:
    return assemble([shard("m/1.safetensors", "a", "b"), shard("m/2.safetensors", "c")])


def test_tensors_of_all_objects_in_order() -> None:
    joined = catalog()
    assert [(t.name, t.object) for t in joined.tensors] == [("a", 0), ("b", 0), ("c", 1)]
    assert joined.nbytes == 24
    assert joined.tensors[1].start == 108
    assert joined.tensors[1].elements == 4


def test_a_name_stands_once() -> None:
    with pytest.raises(ArrowQuantError) as caught:
        assemble([shard("m/1.safetensors", "a"), shard("m/2.safetensors", "a")])
    assert caught.value.code == "invalid_index"
    assert caught.value.where == {"tensor": "a", "object": "m/2.safetensors"}


def test_no_tensors_at_all() -> None:
    with pytest.raises(ArrowQuantError) as caught:
        assemble([shard("m/1.safetensors")])
    assert caught.value.code == "source_not_found"


def test_an_index_that_fits() -> None:
    weight_map = {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"}
    data = json.dumps({"metadata": {}, "weight_map": weight_map}).encode()
    assert parse_index(data, INDEX) == weight_map
    check_index(weight_map, catalog(), INDEX)


@pytest.mark.parametrize(
    ("change", "code", "tensor"),
    [
        ({"c": "1.safetensors"}, "invalid_index", "c"),
        ({"d": "1.safetensors"}, "invalid_index", "d"),
        ({"c": None}, "tensor_missing_in_index", "c"),
    ],
)
def test_an_index_that_does_not_fit(change: dict[str, Any], code: str, tensor: str) -> None:
    weight_map = {"a": "1.safetensors", "b": "1.safetensors", "c": "2.safetensors"} | change
    with pytest.raises(ArrowQuantError) as caught:
        check_index({k: v for k, v in weight_map.items() if v}, catalog(), INDEX)
    assert (caught.value.code, caught.value.where["tensor"]) == (code, tensor)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"{}", b"null", b'{"weight_map": {}}', b'{"weight_map": []}', b"\xff", b"[" * 10**5,
        b'{"weight_map": {"a": 3}}',
        b'{"weight_map": {"a": "../1.safetensors"}}',
        b'{"weight_map": {"a": "/1.safetensors"}}',
        b'{"weight_map": {"a": "x/1.safetensors"}}',
        b'{"weight_map": {"a": "x\\\\1.safetensors"}}',
        b'{"weight_map": {"a": "1.safetensors\\u0000"}}',
        b'{"weight_map": {"a": "\\ud800.safetensors"}}',
        b'{"weight_map": {"\\ud800": "1.safetensors"}}',
        b'{"weight_map": {"a": "1.bin"}}',
        b'{"weight_map": {"a": ""}}',
    ],
)  # fmt: skip
def test_indexes_that_are_refused(data: bytes) -> None:
    with pytest.raises(ArrowQuantError) as caught:
        parse_index(data, INDEX)
    assert caught.value.code == "invalid_index"
    json.dumps(caught.value.as_dict()).encode()


@given(st.binary(max_size=40) | st.text(max_size=40).map(str.encode))
def test_any_bytes_give_an_index_or_a_named_error(data: bytes) -> None:
    for text in (data, b'{"weight_map": ' + data + b"}", b'{"weight_map": {"a": "' + data + b'"}}'):
        code, weight_map = "invalid_index", {}
        try:
            weight_map = parse_index(text, INDEX)
        except ArrowQuantError as error:
            code = error.code
        assert code == "invalid_index"
        assert all(map(plain_name, weight_map.values()))


@pytest.mark.parametrize(
    ("given_", "clean"),
    [
        ("", ""), ("a", "a/"), ("a/", "a/"), ("a/b.c", "a/b.c/"), ("a/..b/c..", "a/..b/c../"),
        ("m/x.safetensors", "m/x.safetensors"), ("模型/é", "模型/é/"),
    ],
)  # fmt: skip
def test_prefixes(given_: str, clean: str) -> None:
    assert clean_prefix(given_) == clean


@pytest.mark.parametrize(
    "value",
    ["/", "/a", "//", "a//b", "..", "a/..", "a/../b", "./a", "a/.", "a\\b", "a\0", "a\n", "\ud800"],
)
def test_prefixes_that_are_refused(value: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        clean_prefix(value)


@given(st.text(st.sampled_from("ab./\\\0\n é"), max_size=12))
def test_a_prefix_never_climbs(value: str) -> None:
    try:
        cleaned = clean_prefix(value)
    except ValueError:
        return
    assert not cleaned.startswith("/")
    assert "\0" not in cleaned
    assert not {"", ".", ".."}.intersection(cleaned.removesuffix("/").split("/")) or cleaned == ""
    assert clean_prefix(cleaned) == cleaned
