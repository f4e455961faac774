"""Calibration files from what others measured: an imatrix, or activations that somebody kept.

imatrix      llama.cpp's .gguf or .dat: sums of squares, under llama.cpp's or the source's names
safetensors  a tensor (vectors, channels) for each weight, under the weight's name
Parquet and Arrow  either columns `weight` (text), `values` (list of numbers), and perhaps `t` and
             `branch`, a row for each activation vector; or a column of lists for each weight
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from arrowquant.calibration import digests, imatrix
from arrowquant.calibration.accumulate import Accumulator
from arrowquant.calibration.bins import bin_of
from arrowquant.calibration.index import Index, Input, Weight, invalid
from arrowquant.calibration.statistics import Stats
from arrowquant.calibration.writer import CalibrationWriter
from arrowquant.errors import CalibrationError

_TOOL: Final = "arrowquant import"
# llama.cpp's names of a block's weights, and those of the models they were converted from.
_LLAMA: Final = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
_BLOCK: Final = re.compile(r"blk\.(\d+)\.(\w+)\.weight\Z")


@dataclass(frozen=True, slots=True)
class Options:
    """How to read activations.

    weights  the safetensors that were measured: gives digests, and names to an imatrix
    names    the source's name for a name in the file, where it is another
    edges    of the time bins, for files that have a `t`
    """

    weights: str | os.PathLike[str] | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    moments: str = "none"
    block: int = 512
    keep: int = 0
    seed: int = 0
    domain: str = "none"
    edges: Sequence[float] = ()
    model: str = ""


def import_file(
    path: str | os.PathLike[str], out: str | os.PathLike[str], options: Options
) -> Index:
    """Write a calibration file from a foreign one and return its index.

    Raises unsupported_format, invalid_calibration, calibration_mismatch for channels that do not
    fit the weights.
    """
    place = Path(path)
    if not place.is_file():
        raise CalibrationError("source_not_found", "there is no such file", "", {"path": str(path)})
    if place.suffix in (".gguf", ".dat"):
        return _from_imatrix(place, out, options)
    reader = {
        ".safetensors": _safetensors,
        ".parquet": _parquet,
        ".arrow": _arrow,
        ".feather": _arrow,
    }.get(place.suffix)
    if reader is None:
        raise CalibrationError(
            "unsupported_format",
            f"files named {place.suffix or place.name!r} are not read",
            "Give an imatrix (.gguf, .dat), or activations as .safetensors, .parquet or .arrow.",
            {"file": place.name},
        )
    return _from_activations(reader(place), out, options, place.name)


def _from_imatrix(place: Path, out: str | os.PathLike[str], options: Options) -> Index:
    found, facts = imatrix.read(place)
    known = _shapes(options)
    names = {name: _source_name(name, known, options.names) for name in found}
    index = Index(
        inputs=tuple(
            Input(f"{names[name]}#in", len(entry.sum_sq), means=entry.sum is not None)
            for name, entry in found.items()
        ),
        weights=_bound({f"{name}#in": [name] for name in names.values()}, options, known),
        model=options.model,
        tool=f"{_TOOL} (imatrix)",
        meta={key: text for key, text in facts.items() if len(key) <= 64},
    )
    _check_channels(index, known)
    with CalibrationWriter(out, index) as writer:
        for entry in found.values():
            sums = None if entry.sum is None else entry.sum[None]
            writer.write(
                Stats(
                    np.zeros(1, np.int32), ("",), np.array([entry.count]), entry.sum_sq[None], sums
                )
            )
    return index


def _from_activations(
    rows: Iterator[tuple[str, NDArray[np.float32], NDArray[np.float64] | None, str]],
    out: str | os.PathLike[str],
    options: Options,
    file: str,
) -> Index:
    known = _shapes(options)
    found: dict[str, Accumulator] = {}
    branches = set()
    for name, x, times, branch in rows:
        weight = _source_name(name, known, options.names)
        held = found.get(weight)
        if held is None:
            held = found[weight] = Accumulator(
                f"{weight}#in",
                x.shape[1],
                options.moments,
                options.block,
                options.keep,
                options.seed,
            )
        if x.shape[1] != held.n:
            raise invalid(f"{x.shape[1]} channels after {held.n}", file=file, tensor=weight[:200])
        places = np.zeros(len(x), np.int32) if times is None else bin_of(times, options.edges)
        held.add(x, places, branch)
        branches.add(branch)
    index = Index(
        inputs=tuple(held.entry() for held in found.values()),
        weights=_bound({f"{name}#in": [name] for name in found}, options, known),
        model=options.model,
        tool=_TOOL,
        domain=options.domain if len(options.edges) else "none",
        edges=tuple(float(edge) for edge in options.edges),
        branches=tuple(sorted(branches)) or ("",),
        keep=options.keep,
        privacy="samples" if options.keep else "aggregate",
    )
    _check_channels(index, known)
    with CalibrationWriter(out, index) as writer:
        for held in found.values():
            writer.write(held.stats(), held.panels(), held.samples())
    return index


def _shapes(options: Options) -> dict[str, tuple[int, ...]]:
    from arrowquant.artifact.source import open_source

    if options.weights is None:
        return {}
    return {name: t.shape for name, t in open_source(os.fspath(options.weights)).items()}


def _source_name(name: str, known: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The source's name of a weight: as told, the same, llama.cpp's translated, or the one it ends."""
    if name in names:
        return names[name]
    if name in known or not known:
        return name
    block = _BLOCK.match(name)
    candidates = [f"{name}.weight"]
    if block and block[2] in _LLAMA:
        candidates.append(f"model.layers.{block[1]}.{_LLAMA[block[2]]}.weight")
    if name == "output.weight":
        candidates.append("lm_head.weight")
    for candidate in candidates:
        longer = [k for k in known if k == candidate or k.endswith(f".{candidate}")]
        if len(longer) == 1:
            return longer[0]
    ending = [k for k in known if k.endswith(f".{name}")]
    return ending[0] if len(ending) == 1 else name


def _bound(
    fed: Mapping[str, Sequence[str]], options: Options, known: Mapping[str, Any]
) -> dict[str, Weight]:
    names = [name for some in fed.values() for name in some]
    found = digests.of_source(options.weights, names) if options.weights is not None else {}
    # Of a source that is named, only its own weights: others would never be used.
    return {
        name: Weight(name, key, found.get(name, ()))
        for key, some in fed.items()
        for name in some
        if not known or name in known
    }


def _check_channels(index: Index, known: Mapping[str, tuple[int, ...]]) -> None:
    for name, weight in index.weights.items():
        shape, n = known.get(name), index.by_id[weight.input].n
        if shape is not None and (len(shape) < 2 or n not in (int(np.prod(shape[1:])), shape[-1])):
            raise CalibrationError(
                "calibration_mismatch",
                f"{n} channels were measured, the weight has shape {list(shape)}",
                "Name the weights that were measured.",
                {"tensor": name[:200]},
            )


def _safetensors(
    place: Path,
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float64] | None, str]]:
    from arrowquant.artifact.schema import FLOATS
    from arrowquant.artifact.source import open_source

    for tensor in open_source(place).values():
        if tensor.dtype not in FLOATS or len(tensor.shape) < 2:
            raise invalid(f"{tensor.dtype} {list(tensor.shape)}", tensor=tensor.name[:200])
        n, vectors = tensor.shape[-1], int(np.prod(tensor.shape[:-1]))
        for start in range(0, vectors, 4096):
            count = min(4096, vectors - start)
            yield tensor.name, tensor.weights(start * n, count * n).reshape(count, n), None, ""


def _parquet(
    place: Path,
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float64] | None, str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(place) as file:
            for batch in file.iter_batches(1024):
                yield from _rows(batch, place.name)
    except (pa.ArrowException, OSError) as error:
        raise invalid(f"not readable as Parquet: {error!s:.200}", file=place.name) from None


def _arrow(
    place: Path,
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float64] | None, str]]:
    import pyarrow as pa

    try:
        with pa.memory_map(str(place)) as mapped, pa.ipc.open_file(mapped) as file:
            for number in range(file.num_record_batches):
                batch = file.get_batch(number)
                batch.validate(full=True)
                yield from _rows(batch, place.name)
    except (pa.ArrowException, OSError) as error:
        raise invalid(f"not readable as Arrow: {error!s:.200}", file=place.name) from None


def _rows(
    batch: Any, file: str
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float64] | None, str]]:
    names = batch.schema.names
    if "weight" not in names:
        for name in names:
            yield name, _matrix(batch.column(name), name, file), None, ""
        return
    if "values" not in names:
        raise invalid("a column `values` is missing beside `weight`", file=file)
    weights = np.asarray(batch.column("weight").to_pylist(), object)
    times = None
    if "t" in names:
        times = np.asarray(batch.column("t").to_numpy(zero_copy_only=False), np.float64)
    branches = np.full(batch.num_rows, "", object)
    if "branch" in names:
        branches = np.asarray([b or "" for b in batch.column("branch").to_pylist()], object)
    for key in dict.fromkeys(zip(weights.tolist(), branches.tolist(), strict=True)):
        chosen = np.flatnonzero((weights == key[0]) & (branches == key[1]))
        x = _matrix(batch.column("values").take(chosen), str(key[0]), file)
        yield str(key[0]), x, None if times is None else times[chosen], key[1]


def _matrix(column: Any, name: str, file: str) -> NDArray[np.float32]:
    """Lists of numbers, all of one length, as float32 (vectors, channels)."""
    import pyarrow as pa

    kind = column.type
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not (is_list or pa.types.is_fixed_size_list(kind)) or column.null_count:
        raise invalid("a column is no list of numbers, or has nulls", file=file, tensor=name[:200])
    items = column.flatten()
    lengths = {kind.list_size} if not is_list else set(column.value_lengths().to_pylist())
    if len(lengths) != 1 or items.null_count or not pa.types.is_floating(items.type):
        raise invalid("activations are not floats of one length", file=file, tensor=name[:200])
    values = items.to_numpy(zero_copy_only=False).astype(np.float32)
    return np.asarray(values.reshape(len(column), lengths.pop()))


def read_names(path: str | os.PathLike[str]) -> dict[str, str]:
    """A JSON object of names. Raises usage."""
    try:
        value = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CalibrationError(
            "usage", f"not readable as JSON: {error}", "", {"path": str(path)}
        ) from None
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise CalibrationError("usage", "not an object of names", "", {"path": str(path)})
    return value
