"""Is an artifact whole, and how far is it from its source?"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import google_crc32c
import numpy as np

from arrowquant.artifact import schema
from arrowquant.artifact.activations import Activations
from arrowquant.artifact.fidelity import ErrorSums
from arrowquant.artifact.findings import Problem, TensorCheck, Verification
from arrowquant.artifact.manifest import PartEntry
from arrowquant.artifact.parts import Part
from arrowquant.artifact.source import SourceTensor, open_source
from arrowquant.artifact.tensor import QuantizedTensor, weight_blocks
from arrowquant.artifact.tile import Tile
from arrowquant.errors import ArrowQuantError, ArtifactError

_CHUNK = 4 * 2**20

Progress = Callable[[int], None]  #: called with bytes of parts checked since the last call


class Opened(Protocol):
    """What is verified: an open `Artifact`."""

    folder: Path

    @property
    def parts(self) -> tuple[PartEntry, ...]: ...
    @property
    def report(self) -> dict[str, Any]: ...
    @property
    def manifest(self) -> dict[str, Any]: ...
    @property
    def activations(self) -> Activations: ...
    def part(self, number: int) -> Part: ...
    def __iter__(self) -> Iterator[str]: ...
    def __getitem__(self, name: str) -> QuantizedTensor: ...


def verify(
    model: Opened, against: str | Path | None = None, progress: Progress | None = None
) -> Verification:
    """Check sizes, SHA-256 of parts and report, CRC-32C of every tile, and decode every tensor.

    against  a folder of safetensors or one file: raw tensors must be equal to the byte, the errors
             of the others are computed afresh and compared with those on record
    What is wrong is in the result; only a source that cannot be read raises.
    """
    source = None if against is None else open_source(against)
    return _Run(model, source, progress or (lambda _: None)).run()


class _Run:
    def __init__(
        self, model: Opened, source: dict[str, SourceTensor] | None, progress: Progress
    ) -> None:
        self.model, self.source, self.progress = model, source, progress
        self.result = Verification(parts=len(model.parts), compared=source is not None)
        self.recorded: dict[str, dict[str, Any]] = {}

    def run(self) -> Verification:
        self._digests()
        self._report()
        self._activations()
        for name in self.model:
            try:
                self._tensor(self.model[name])
            except ArrowQuantError as error:
                self._problem(error.code, error.detail, **error.where)
        self._leftovers()
        return self.result

    def _problem(self, code: str, detail: str, **where: Any) -> None:
        self.result.problems.append(Problem(code, detail, where))

    def _digests(self) -> None:
        for part in self.model.parts:
            path, digest, size = self.model.folder / part.name, hashlib.sha256(), 0
            try:
                with path.open("rb") as stream:
                    while chunk := stream.read(_CHUNK):
                        digest.update(chunk)
                        size += len(chunk)
                        self.progress(len(chunk))
            except OSError as error:
                self._problem("invalid_artifact", f"cannot be read: {error}", part=part.name)
                continue
            self.result.part_bytes += size
            if size != part.nbytes:
                detail = f"{size} bytes, the manifest says {part.nbytes}"
                self._problem("invalid_artifact", detail, part=part.name)
            elif digest.hexdigest() != part.sha256:
                detail = "the SHA-256 is not the one in the manifest"
                self._problem("digest_mismatch", detail, part=part.name)

    def _report(self) -> None:
        try:
            rows = self.model.report.get("tensors")
        except ArtifactError as error:
            self._problem(error.code, error.detail, **error.where)
            return
        rows = rows if isinstance(rows, list) else []
        self.recorded = {str(r.get("name")): r for r in rows if isinstance(r, dict)}

    def _activations(self) -> None:
        if "activations" not in self.model.manifest:
            return
        try:
            _ = self.model.activations
        except ArtifactError as error:
            self._problem(error.code, error.detail, **error.where)

    def _tensor(self, tensor: QuantizedTensor) -> None:
        source = self._source_of(tensor)
        if tensor.tied_to is not None:
            stored = self.source.get(tensor.tied_to) if self.source else None
            if source and stored and not np.array_equal(source.data, stored.data):
                detail = f"the source's bytes are not those of {tensor.tied_to}"
                self._problem("source_mismatch", detail, tensor=tensor.name)
            return
        check = self._raw if tensor.codec == "raw" else self._quantized
        self.result.tensors.append(check(tensor, tensor.stored(), source))
        self.result.weights += tensor.elements

    def _source_of(self, tensor: QuantizedTensor) -> SourceTensor | None:
        if self.source is None:
            return None
        found = self.source.get(tensor.name)
        if found is None:
            self._problem("source_mismatch", "the source has no such tensor", tensor=tensor.name)
        elif (found.dtype, found.shape) != (tensor.dtype, tensor.shape):
            detail = f"the source has {found.dtype} {list(found.shape)}"
            self._problem("source_mismatch", detail, tensor=tensor.name)
            return None
        return found

    def _crc(self, tile: Tile) -> None:
        self.result.tiles += 1
        # The wrapper wants bytes; a megabyte at a time keeps the copy small.
        data, value = tile.codes.reshape(-1), 0
        for start in range(0, data.size, _CHUNK):
            value = google_crc32c.extend(value, data[start : start + _CHUNK].tobytes())
        if value != tile.crc32c:
            detail = f"CRC-32C of the codes is {value:08x}, on record {tile.crc32c:08x}"
            self._problem("digest_mismatch", detail, **tile.where)

    def _raw(
        self, tensor: QuantizedTensor, tiles: tuple[Tile, ...], source: SourceTensor | None
    ) -> TensorCheck:
        position, exact = 0, True
        for tile in tiles:
            self._crc(tile)
            data = tile.codes.reshape(-1)
            if source is not None:
                exact &= np.array_equal(data, source.data[position : position + data.size])
            position += data.size
        if not exact:
            self._problem("source_mismatch", "raw bytes differ from the source", tensor=tensor.name)
        return TensorCheck(
            tensor.name, "raw", 0, tensor.elements, exact=None if source is None else exact
        )

    def _quantized(
        self, tensor: QuantizedTensor, tiles: tuple[Tile, ...], source: SourceTensor | None
    ) -> TensorCheck:
        total, position, finite = ErrorSums(), 0, True
        differ: list[str] = []
        for tile in tiles:
            self._crc(tile)
            sums = ErrorSums()
            for block in weight_blocks((tile,)):
                finite = finite and bool(np.isfinite(block).all())
                if source is not None:
                    sums += ErrorSums.of(source.weights(position, block.size), block)
                position += block.size
            if source is not None and not _near(tile.relmse, sums.relmse):
                differ.append(
                    f"tile {tile.tile_index} says relmse {tile.relmse:.6g}, found {sums.relmse:.6g}"
                )
            total += sums
        if not finite:
            self._problem("non_finite_weights", "decodes to NaN or infinity", tensor=tensor.name)
        check = TensorCheck(tensor.name, tensor.codec, tensor.bits, tensor.elements)
        if source is None:
            return check
        found, record = total.metrics(), self.recorded.get(tensor.name, {})
        wrong = [key for key in found if not _near(record.get(key), found[key])]
        if wrong:
            pairs = ", ".join(f"{k} {record[k]:.6g} (found {found[k] or 0:.6g})" for k in wrong)
            self._problem("quality_mismatch", f"the report says {pairs}", tensor=tensor.name)
        elif differ:
            self._problem("quality_mismatch", "; ".join(differ[:3]), tensor=tensor.name)
        return replace(check, **found)

    def _leftovers(self) -> None:
        """Nothing may be left out: neither batches of the parts nor tensors of the source."""
        try:
            batches = sum(self.model.part(n).batches for n in range(len(self.model.parts)))
        except ArtifactError:
            return  # told already
        if batches != self.result.tiles and not self.result.problems:
            detail = f"the parts hold {batches} tiles, the manifest uses {self.result.tiles}"
            self._problem("invalid_artifact", detail, file=schema.MANIFEST)
        for name in sorted((self.source or {}).keys() - set(self.model)):
            detail = "the source's tensor is not in the artifact"
            self._problem("source_mismatch", detail, tensor=name)


def _near(recorded: object, found: float | None) -> bool:
    """What is not on record cannot be wrong. The records may be float32, summed in another order."""
    if found is None or not isinstance(recorded, int | float):
        return True
    if not (math.isfinite(recorded) and math.isfinite(found)):
        return recorded == found
    return abs(recorded - found) <= 1e-4 * abs(found) + 1e-9
