"""`arrowquant.open`: an artifact as a mapping from names to tensors, memory-mapped and lazy."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from arrowquant.artifact import schema
from arrowquant.artifact.activations import Activation, Activations, Mode, read_activations
from arrowquant.artifact.findings import Verification
from arrowquant.artifact.manifest import (
    Manifest,
    PartEntry,
    TensorEntry,
    invalid,
    read_json,
    read_manifest,
    report_name,
)
from arrowquant.artifact.parts import Part
from arrowquant.artifact.tensor import QuantizedTensor
from arrowquant.artifact.tile import Tile
from arrowquant.artifact.verify import verify
from arrowquant.errors import ArtifactError, TensorNotFound

__all__ = ["Artifact", "QuantizedTensor"]


class Artifact(Mapping[str, QuantizedTensor]):
    """An open artifact. Use it as a context manager, or call `close`.

    Opening reads `manifest.json` only; a part is mapped when a tensor in it is first asked for.
    Several threads may read from one artifact.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self._manifest = manifest
        self._parts: dict[int, Part] = {}
        self._tiles: dict[str, tuple[Tile, ...]] = {}
        self._index: dict[str, list[tuple[int, int]]] | None = None
        self._report: dict[str, Any] | None = None
        self._activations: Activations | None = None
        self._lock = threading.RLock()
        self._closed = False

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Open a folder that holds an artifact, or the `manifest.json` in it."""
        text = str(path)
        if "://" in text and not text.startswith("file://"):
            raise ArtifactError(
                "remote_artifact",
                f"{text!r:.200} is not a local folder",
                "Fetch it first: `arrowquant fetch JOB DIR`, or copy the prefix with any S3 tool.",
            )
        folder = Path(text.removeprefix("file://"))
        if folder.name == schema.MANIFEST:
            folder = folder.parent
        if not folder.is_dir():
            raise ArtifactError("artifact_not_found", "there is no such folder", "", {"path": text})
        if not (folder / schema.MANIFEST).exists():
            raise ArtifactError(
                "artifact_not_found",
                "the folder holds no manifest.json",
                "It is written last: the job may still be running, or the copy is incomplete.",
                {"path": text},
            )
        return cls(folder, read_manifest(folder))

    def __getitem__(self, name: str) -> QuantizedTensor:
        entry = self._manifest.tensors.get(name)
        if entry is None:
            raise TensorNotFound(
                "tensor_not_found",
                "the artifact holds no tensor of this name",
                "keys() lists the names.",
                {"tensor": name},
            )
        return QuantizedTensor(entry, self.tiles_of)

    def __iter__(self) -> Iterator[str]:
        return iter(self._manifest.tensors)

    def __len__(self) -> int:
        return len(self._manifest.tensors)

    def __repr__(self) -> str:
        return f"<Artifact {self.name!r}: {len(self)} tensors, {len(self.parts)} parts>"

    # One artifact is not another with equal contents: comparing would have to read everything.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def name(self) -> str:
        """The model's name, or the folder's where the manifest has none."""
        return str(self.manifest.get("name") or self.folder.name)

    @property
    def manifest(self) -> dict[str, Any]:
        """`manifest.json` as it stands."""
        return self._manifest.raw

    @property
    def parts(self) -> tuple[PartEntry, ...]:
        """The parts as the manifest lists them."""
        return self._manifest.parts

    @property
    def report(self) -> dict[str, Any]:
        """The report, checked against the digest in the manifest."""
        if self._report is None:
            entry = self.manifest.get("report")
            name = report_name(entry)
            value, sha256 = read_json(self.folder / name, schema.MAX_REPORT_BYTES)
            if isinstance(entry, dict) and entry.get("sha256", sha256) != sha256:
                raise ArtifactError(
                    "digest_mismatch",
                    "the SHA-256 is not the one in the manifest",
                    "The file was altered or damaged; fetch the artifact again.",
                    {"file": name},
                )
            self._report = value
        return self._report

    @property
    def activations(self) -> Activations:
        """How the inputs of layers are to be quantized; raises no_activations without calibration."""
        if self._activations is None:
            entry = self.manifest.get("activations")
            self._activations = read_activations(self.folder, entry)
        return self._activations

    def activation(
        self, layer: str, t: float, *, branch: str | None = None, mode: Mode | None = None
    ) -> Activation:
        """The quantizer of a layer's input at diffusion time `t`, in the calibration's domain.

        layer   the weight's name
        branch  of guidance, where the table tells them apart
        mode    static or dynamic_per_token instead of what the artifact's maker found best
        """
        return self.activations.find(layer, t, branch=branch, mode=mode)

    def verify(self, against: str | Path | None = None) -> Verification:
        """Check digests, decode everything, compare with the source when it is given."""
        return verify(self, against)

    def close(self) -> None:
        """Release the mapped files. Arrays already handed out stay valid."""
        with self._lock:
            self._closed = True
            self._tiles.clear()
            for part in self._parts.values():
                part.close()
            self._parts.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def part(self, number: int) -> Part:
        """A part, opened on first use."""
        with self._lock:
            if self._closed:
                raise ArtifactError("closed", "the artifact was closed")
            if number not in self._parts:
                entry = self.parts[number]
                self._parts[number] = Part(self.folder, entry, self._manifest.version)
            return self._parts[number]

    def tiles_of(self, tensor: TensorEntry) -> tuple[Tile, ...]:
        """The stored tiles of a tensor in row order, which together cover it exactly."""
        key = tensor.tied_to or tensor.name
        with self._lock:
            if key not in self._tiles:
                places = self._places(tensor)
                tiles = [self.part(part).tile(batch, tensor) for part, batch in places]
                tiles.sort(key=lambda tile: tile.tile_index)
                _check_covering(tensor, tiles)
                self._tiles[key] = tuple(tiles)
            return self._tiles[key]

    def _places(self, tensor: TensorEntry) -> list[tuple[int, int]]:
        if tensor.tiles is not None:
            return list(tensor.tiles)
        if self._index is None:
            index: dict[str, list[tuple[int, int]]] = {}
            for number in range(len(self.parts)):
                part = self.part(number)
                for batch in range(part.batches):
                    index.setdefault(part.tensor_name(batch), []).append((number, batch))
            self._index = index
        return self._index.get(tensor.tied_to or tensor.name, [])


def _check_covering(tensor: TensorEntry, tiles: list[Tile]) -> None:
    where = {"tensor": tensor.name[:200]}
    if not tiles:
        if tensor.nbytes == 0:
            return
        raise invalid("the parts hold no tile of the tensor", **where)
    row = 0
    for tile in tiles:
        if tile.row_start != row:
            what = "repeats rows" if tile.row_start < row else "leaves rows out"
            raise invalid(f"the tile starts at row {tile.row_start}: it {what}", **tile.where)
        if tile.cols != tiles[0].cols or tile.codes.shape[1] != tiles[0].codes.shape[1]:
            raise invalid("the tile is not as wide as the first", **tile.where)
        if (tile.scale_bits, tile.rotation) != (tiles[0].scale_bits, tiles[0].rotation):
            raise invalid("the tile is not coded as the first", **tile.where)
        row += tile.rows
    if tensor.codec == "raw":
        have, need = sum(tile.codes.nbytes for tile in tiles), tensor.nbytes
    else:
        have, need = row * tiles[0].cols, tensor.elements
    if have != need:
        unit = "bytes" if tensor.codec == "raw" else "elements"
        raise invalid(f"the tiles hold {have} {unit}, the shape needs {need}", **where)
