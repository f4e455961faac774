"""Calibration files from strangers: refused with a reason, whatever is wrong with them."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from arrowquant.calibration.checking import describe
from arrowquant.calibration.index import parse
from arrowquant.calibration.reader import CalibrationFile
from arrowquant.errors import CalibrationError
from tests.client import calibrations


def good(tmp_path: Path) -> Path:
    path = tmp_path / "c.arrow"
    times = np.linspace(0, 999, 60)
    calibrations.write(
        path,
        {"a.weight": calibrations.activations(np.random.default_rng(4), 60, 16)},
        block=8,
        keep=5,
        times=times,
    )
    return path


def rewritten(tmp_path: Path, number: int, **changes: Any) -> Path:
    """The good file with columns of one batch replaced; None of a row where a list is given."""
    path = good(tmp_path)
    with pa.ipc.open_file(path) as file:
        schema, batches = file.schema, [file.get_batch(n) for n in range(file.num_record_batches)]
    batch = batches[number].to_pydict()
    for name, change in changes.items():
        batch[name] = change(batch[name])
    batches[number] = pa.RecordBatch.from_pydict(batch, schema=schema)
    with pa.ipc.new_file(str(path), schema) as writer:
        for each in batches:
            writer.write_batch(each)
    return path


def refused(path: Path, words: str) -> None:
    with pytest.raises(CalibrationError, match=words) as failure:
        describe(path, None)
    assert failure.value.code == "invalid_calibration"


def first(change: Any) -> Any:
    """Change the first number of the first row."""

    def apply(values: Any) -> Any:
        return [[change(values[0][0]), *values[0][1:]], *values[1:]]

    return apply


def minus(value: Any) -> Any:
    return -1 - value


def data_with(place: int, value: float, kind: str = "<f4") -> Any:
    def apply(values: list[bytes]) -> list[bytes]:
        array = np.frombuffer(values[0], kind).copy()
        array[place] = value
        return [array.tobytes()]

    return apply


@pytest.mark.parametrize(
    ("number", "changes", "words"),
    [
        (0, {"sum_sq": first(minus)}, "negative or not finite"),
        (0, {"sum_sq": first(lambda v: float("nan"))}, "negative or not finite"),
        (0, {"sum_sq": first(lambda v: float("inf"))}, "negative or not finite"),
        (0, {"sum_sq": lambda v: [row[:-1] for row in v]}, "not 16 numbers"),
        (0, {"sum_sq": lambda v: [None for _ in v]}, "sum_sq is null"),
        (0, {"sum": first(lambda v: 1e30)}, "larger than its squares"),
        (0, {"abs_max": first(lambda v: 1e20)}, "above its sum of squares"),
        (0, {"abs_max": first(minus)}, "negative or not finite"),
        (0, {"count": lambda v: [-1, *v[1:]]}, "count is negative"),
        (0, {"count": lambda v: [0, *v[1:]]}, "summed over nothing"),
        (0, {"count": lambda v: [2**60, *v[1:]]}, "too large"),
        (0, {"min": lambda v: [1e9, *v[1:]]}, "upside down"),
        (0, {"max": lambda v: [None for _ in v]}, "lacks an end"),
        (0, {"hist": first(lambda v: v + 1)}, "does not add up"),
        (0, {"hist": first(minus)}, "does not add up"),
        (0, {"bin": lambda v: [3, *v[1:]]}, "no time bin"),
        (0, {"bin": lambda v: [1 for _ in v]}, "one time bin and branch"),
        (0, {"branch": lambda v: ["x", *v[1:]]}, "unknown branch"),
        (0, {"kind": lambda v: ["moment" for _ in v]}, "not the stats"),
        (0, {"input": lambda v: ["b" for _ in v]}, "not the stats"),
        (1, {"data": data_with(0, 9e9)}, "diagonal of its second moments"),
        (1, {"data": data_with(1, 5.0)}, "not symmetric"),
        (1, {"data": data_with(1, np.nan)}, "not finite"),
        (1, {"data": lambda v: [v[0][:-4]]}, "bytes of data"),
        (1, {"row_start": lambda v: [8]}, "expected"),
        (3, {"data": data_with(0, np.inf, "<f2")}, "sample is not finite"),
        (3, {"sample_bin": first(lambda v: 9)}, "no time bin"),
        (3, {"sample_key": first(lambda v: 2**64 - 1)}, "do not ascend"),
    ],
)  # fmt: skip
def test_numbers_that_nobody_can_have_measured(
    tmp_path: Path, number: int, changes: dict[str, Any], words: str
) -> None:
    refused(rewritten(tmp_path, number, **changes), words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edges": [3, 2, 1]}, "do not ascend"),
        ({"edges": list(range(99))}, "at most 65"),
        ({"edges": ["a"]}, "finite numbers"),
        ({"omega": [1, 2]}, "omega needs 3"),
        ({"omega": [0, 0, 0]}, "not all zero"),
        ({"domain": "fortnight"}, "not one of"),
        ({"branches": []}, "branches is no list"),
        ({"samples": -1}, "not a number from 0"),
        ({"keep": 2}, "at most 2"),
        ({"meta": {"a": 1}}, "no short text"),
        ({"inputs": []}, "its input is not in the file"),
        ({"inputs": "x"}, "inputs is no list"),
        ({"weights": []}, "weights is no object"),
        ({"weights": {"w": {"input": "a.weight#in", "sha256": ["zz"]}}}, "no list of SHA-256"),
    ],
)
def test_indexes_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with CalibrationFile.open(good(tmp_path)) as file:
        value = json.loads(file.index.dump())
    with pytest.raises(CalibrationError, match=words):
        parse(json.dumps(value | changes).encode())
    with pytest.raises(CalibrationError, match="not JSON"):
        parse(b"{" + b"[" * 100_000)


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"n": 2**40}, "n is"),
        ({"n": 0}, "do not fit"),
        ({"rows": 500}, "rows is 500"),
        ({"rows": 9}, "at most 3"),
        ({"moment": "many"}, "not one of"),
        ({"moment": "full"}, "do not fit"),
        ({"kept": 2**20}, "kept is"),
    ],
)
def test_inputs_that_announce_too_much(tmp_path: Path, entry: dict[str, Any], words: str) -> None:
    with CalibrationFile.open(good(tmp_path)) as file:
        value = json.loads(file.index.dump())
    value["inputs"][0] |= entry
    with pytest.raises(CalibrationError, match=words):
        parse(json.dumps(value).encode())


def test_a_batch_larger_than_its_index_says_is_not_read(tmp_path: Path) -> None:
    path = rewritten(tmp_path, 1, data=lambda v: [v[0] + bytes(2 * 2**20)])
    refused(path, "a batch of .* bytes, at most 256")


def test_other_files_are_not_mistaken(tmp_path: Path) -> None:
    path = tmp_path / "x.arrow"
    with pa.ipc.new_file(str(path), pa.schema([("a", pa.int32())])) as writer:
        writer.write_batch(pa.record_batch({"a": pa.array([1], pa.int32())}))
    refused(path, "not a calibration file")
    path.write_bytes(b"ARROW1" + bytes(100))
    refused(path, "not a complete Arrow file")
    with pytest.raises(CalibrationError, match="no such file"):
        describe(tmp_path / "none", None)


def test_compressed_buffers_are_refused(tmp_path: Path) -> None:
    path = good(tmp_path)
    with pa.ipc.open_file(path) as file:
        schema, batches = file.schema, [file.get_batch(n) for n in range(file.num_record_batches)]
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_file(str(path), schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
    refused(path, "compressed")


def test_any_damage_is_told_as_such(tmp_path: Path) -> None:
    """Bytes turned over anywhere: an error of ours, or numbers that pass every check."""
    path = good(tmp_path)
    data = path.read_bytes()
    rng = np.random.default_rng(3)
    told = 0
    for _ in range(150):
        spoilt = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 30)):
            spoilt[place] = rng.integers(0, 256)
        path.write_bytes(
            bytes(spoilt[: rng.integers(1, len(data)) if rng.random() < 0.2 else None])
        )
        with contextlib.suppress(CalibrationError):
            describe(path, None)
            continue
        told += 1
    assert told > 100
