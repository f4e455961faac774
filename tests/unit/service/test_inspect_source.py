"""Looking into sources: which objects are read, what is refused, which tensors are the same."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.adapters.objects import FolderStore
from service.domain.catalog import Catalog, ObjectInfo
from service.domain.errors import ArrowQuantError
from service.usecases import find_ties, inspect_source
from service.usecases.inspect_source import inspect

Tensors = dict[str, tuple[str, list[int], bytes]]


def safetensors(tensors: Tensors, pad: int = 0) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"pad": " " * pad}} if pad else {}
    position = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [position, position + len(data)],
        }
        position += len(data)
    text = json.dumps(header).encode()
    body = b"".join(data for _, _, data in tensors.values())
    return len(text).to_bytes(8, "little") + text + body


def weights(seed: int, count: int = 40_000) -> tuple[str, list[int], bytes]:
    import random

    return "F16", [count // 200, 200], random.Random(seed).randbytes(2 * count)


class CountingStore(FolderStore):
    """A folder that counts the requests and the bytes read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.requests = 0
        self.bytes_read = 0

    def readinto(self, key: str, start: int, buffer: memoryview, etag: str) -> None:
        self.requests += 1
        self.bytes_read += len(buffer)
        super().readinto(key, start, buffer, etag)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    return CountingStore(tmp_path)


def error_of(call: Callable[[], object]) -> ArrowQuantError:
    with pytest.raises(ArrowQuantError) as caught:
        call()
    return caught.value


def names(catalog: Catalog) -> list[str]:
    return [tensor.name for tensor in catalog.tensors]


def test_one_object(store: CountingStore) -> None:
    store.put("m/model.safetensors", safetensors({"a": weights(0), "b": ("F32", [], b"1234")}))
    store.put("m/other.safetensors", safetensors({"z": weights(1)}))

    catalog = inspect(store, "m/model.safetensors")

    assert names(catalog) == ["a", "b"]
    tensor = catalog.tensors[0]
    stored = store.read("m/model.safetensors", tensor.start, tensor.start + tensor.nbytes)
    assert stored == weights(0)[2]
    assert catalog.objects == (store.stat("m/model.safetensors"),)
    assert catalog.ties == {}


def test_all_objects_directly_in_the_prefix(store: CountingStore) -> None:
    store.put("m/b.safetensors", safetensors({"b": weights(1)}))
    store.put("m/a.safetensors", safetensors({"a": weights(0)}))
    store.put("m/sub/c.safetensors", b"never read")
    store.put("m/config.json", b"{}")
    store.put("m/model.bin", b"never read")
    assert names(inspect(store, "m/")) == ["a", "b"]
    assert store.requests == 5  # config, two headers, and one sample of each tensor


def test_the_root_of_a_connection(store: CountingStore) -> None:
    store.put("a.safetensors", safetensors({"a": weights(0)}))
    assert names(inspect(store, "")) == ["a"]


def _index(store: CountingStore, weight_map: dict[str, str]) -> None:
    text = json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map})
    store.put("m/model.safetensors.index.json", text.encode())


def test_an_index_names_the_shards(store: CountingStore) -> None:
    store.put("m/s-1.safetensors", safetensors({"a": weights(0)}))
    store.put("m/s-2.safetensors", safetensors({"b": weights(1)}))
    store.put("m/consolidated.safetensors", safetensors({"a": weights(0), "b": weights(1)}))
    _index(store, {"b": "s-2.safetensors", "a": "s-1.safetensors"})
    catalog = inspect(store, "m/")
    assert [info.key for info in catalog.objects] == ["m/s-1.safetensors", "m/s-2.safetensors"]


@pytest.mark.parametrize(
    ("weight_map", "code"),
    [
        ({"a": "s.safetensors", "b": "gone.safetensors"}, "source_not_found"),
        ({"a": "../s.safetensors"}, "invalid_index"),
        ({"a": "/etc/s.safetensors"}, "invalid_index"),
        ({"a": "s.bin"}, "invalid_index"),
        ({"a": "s.safetensors", "x": "s.safetensors"}, "invalid_index"),
        ({}, "invalid_index"),
    ],
)
def test_wrong_indexes(store: CountingStore, weight_map: dict[str, str], code: str) -> None:
    store.put("m/s.safetensors", safetensors({"a": weights(0)}))
    _index(store, weight_map)
    assert error_of(lambda: inspect(store, "m/")).code == code


def test_a_tensor_the_index_does_not_name(store: CountingStore) -> None:
    store.put("m/s.safetensors", safetensors({"a": weights(0), "b": weights(1)}))
    _index(store, {"a": "s.safetensors"})
    error = error_of(lambda: inspect(store, "m/"))
    assert error.code == "tensor_missing_in_index"
    assert error.where["tensor"] == "b"


def test_two_indexes(store: CountingStore) -> None:
    store.put("m/s.safetensors", safetensors({"a": weights(0)}))
    _index(store, {"a": "s.safetensors"})
    store.put("m/other.safetensors.index.json", b"{}")
    assert error_of(lambda: inspect(store, "m/")).code == "invalid_index"


def test_an_index_too_large_is_not_read(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _index(store, {"a": "s.safetensors"})
    monkeypatch.setattr(inspect_source, "MAX_INDEX_BYTES", 10)
    assert error_of(lambda: inspect(store, "m/")).code == "invalid_index"
    assert store.requests == 0


def test_the_same_tensor_in_two_objects(store: CountingStore) -> None:
    store.put("m/a.safetensors", safetensors({"x": weights(0)}))
    store.put("m/a.fp16.safetensors", safetensors({"x": weights(0)}))
    error = error_of(lambda: inspect(store, "m/"))
    assert error.code == "invalid_index"
    assert "a.fp16.safetensors" in error.detail


def test_nothing_there(store: CountingStore) -> None:
    assert error_of(lambda: inspect(store, "m/")).code == "source_not_found"
    assert error_of(lambda: inspect(store, "m/x.safetensors")).code == "source_not_found"
    store.put("m/config.json", b"{}")
    error = error_of(lambda: inspect(store, "m/"))
    assert (error.code, "config.json" in error.detail) == ("source_not_found", True)


def test_a_pipeline_of_models_names_its_parts(store: CountingStore) -> None:
    store.put("p/model_index.json", b"{}")
    store.put("p/unet/model.safetensors", safetensors({"a": weights(0)}))
    store.put("p/vae/model.safetensors", safetensors({"a": weights(0)}))
    error = error_of(lambda: inspect(store, "p/"))
    assert error.code == "source_not_found"
    assert "p/unet, p/vae" in error.detail


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.Q4_K.gguf", "sd.ckpt", "w.PTH"])
def test_other_formats_are_named(store: CountingStore, name: str) -> None:
    store.put(f"m/{name}", b"x")
    error = error_of(lambda: inspect(store, "m/"))
    assert error.code == "unsupported_format"
    assert name in error.detail


class _Trap:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return pytest.fail, ("unpickled",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(_Trap(), 2),
        pickle.dumps(_Trap(), 5),
        b"PK\x03\x04" + bytes(100),
        b"GGUF\x03\x00\x00\x00" + bytes(100),
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
)
def test_content_decides_not_the_name(store: CountingStore, content: bytes) -> None:
    store.put("m/model.safetensors", content)
    error = error_of(lambda: inspect(store, "m/"))
    assert error.code == "unsupported_format"
    assert error.where["object"] == "m/model.safetensors"


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9])
def test_objects_too_short_for_a_header(store: CountingStore, size: int) -> None:
    store.put("m/model.safetensors", bytes(size))
    assert error_of(lambda: inspect(store, "m/")).code == "invalid_safetensors_header"


def test_only_headers_are_read(store: CountingStore) -> None:
    large = ("U8", [5_000_000], bytes(5_000_000))
    store.put("m/a.safetensors", safetensors({"x": large}, pad=300_000))
    store.put("m/b.safetensors", safetensors({"y": weights(0)}))
    inspect(store, "m/")
    assert store.requests == 3
    assert store.bytes_read < 700_000


def test_bounds_on_objects(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(5):
        store.put(f"m/{number}.safetensors", safetensors({f"t{number}": ("U8", [1], b"x")}))
    monkeypatch.setattr(inspect_source, "MAX_TENSORS", 4)
    assert error_of(lambda: inspect(store, "m/")).code == "invalid_safetensors_header"
    monkeypatch.setattr(inspect_source, "MAX_OBJECTS", 4)
    assert error_of(lambda: inspect(store, "m/")).code == "invalid_index"
    monkeypatch.setattr(inspect_source, "MAX_LISTED", 4)
    assert error_of(lambda: inspect(store, "m/")).code == "source_not_found"


def test_a_source_that_changes_is_noticed(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put("m/a.safetensors", safetensors({"a": weights(0)}))
    real = store.list

    def listed_then_changed(prefix: str) -> Iterator[ObjectInfo]:
        infos = list(real(prefix))
        store.put("m/a.safetensors", safetensors({"a": weights(1)}))
        return iter(infos)

    monkeypatch.setattr(store, "list", listed_then_changed)
    assert error_of(lambda: inspect(store, "m/")).code == "source_changed"


# -- ties ------------------------------------------------------------------------------------------


def test_equal_tensors_are_tied_to_the_first(store: CountingStore) -> None:
    store.put(
        "m/a.safetensors",
        safetensors({"embed": weights(0), "other": weights(1), "small": ("U8", [9], bytes(9))}),
    )
    store.put(
        "m/b.safetensors",
        safetensors({"head": weights(0), "third": weights(0), "small2": ("U8", [9], bytes(9))}),
    )
    assert inspect(store, "m/").ties == {"head": "embed", "third": "embed"}


def test_shape_and_dtype_must_be_equal_too(store: CountingStore) -> None:
    dtype, _, data = weights(0)
    rows, cols = 100, 400
    store.put(
        "m.safetensors",
        safetensors(
            {
                "a": (dtype, [rows, cols], data),
                "b": (dtype, [cols, rows], data),
                "c": ("BF16", [rows, cols], data),
            }
        ),
    )
    assert inspect(store, "m.safetensors").ties == {}


@pytest.mark.parametrize("at", [0, 1, 39_999, 40_000, 50_000, 79_999])
def test_one_different_byte_is_enough(store: CountingStore, at: int) -> None:
    dtype, shape, data = weights(0)
    changed = bytearray(data)
    changed[at] ^= 1
    tensors = {"a": (dtype, shape, data), "b": (dtype, shape, bytes(changed))}
    store.put("m.safetensors", safetensors(tensors))
    assert inspect(store, "m.safetensors").ties == {}


def test_many_alike_layers_cost_one_sample_each(store: CountingStore) -> None:
    tensors = {f"layers.{n}": weights(n) for n in range(50)}
    store.put("m.safetensors", safetensors(tensors | {"tied": weights(7)}))
    assert inspect(store, "m.safetensors").ties == {"tied": "layers.7"}
    assert store.requests == 1 + 51 + 3 * 2 + 2


def test_the_search_is_bounded(store: CountingStore, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = {f"layers.{n}": weights(n % 10) for n in range(20)}
    head = weights(99, 60_000)
    store.put("m.safetensors", safetensors(tensors | {"a": head, "b": head}))
    monkeypatch.setattr(find_ties, "MAX_CANDIDATES", 10)
    assert inspect(store, "m.safetensors").ties == {"b": "a"}
    assert store.requests < 15
    monkeypatch.setattr(find_ties, "MAX_HASHED_BYTES", 1000)
    assert inspect(store, "m.safetensors").ties == {}


def test_zeros_are_equal_too(store: CountingStore) -> None:
    zeros = ("F32", [200, 200], bytes(160_000))
    store.put("m.safetensors", safetensors({"b": zeros, "a": zeros}))
    assert inspect(store, "m.safetensors").ties == {"a": "b"}
