"""Read, check and order quantized models.

    import arrowquant

    model = arrowquant.open("out/")
    weights = model["blocks.0.attn.qkv.weight"].dequantize()

    client = arrowquant.Client("https://quant.example", key="...")
    job = client.submit({...})

`arrowquant.AsyncClient` is the same for programs with an event loop; `arrowquant.http.types` names
what both take and give. Importing this package loads neither NumPy nor Arrow; the first use does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrowquant.errors import ApiError, ArrowQuantError, ArtifactError, JobFailed

if TYPE_CHECKING:
    from arrowquant.artifact.findings import Verification
    from arrowquant.artifact.reader import Artifact, QuantizedTensor
    from arrowquant.http.async_client import AsyncClient
    from arrowquant.http.client import Client

__version__ = "0.1.0"

__all__ = [
    "ApiError",
    "ArrowQuantError",
    "Artifact",
    "ArtifactError",
    "AsyncClient",
    "Client",
    "JobFailed",
    "QuantizedTensor",
    "Verification",
    "__version__",
    "dequantize",
    "open",
    "verify",
]

_LAZY = {
    "Artifact": "arrowquant.artifact.reader",
    "QuantizedTensor": "arrowquant.artifact.reader",
    "Verification": "arrowquant.artifact.findings",
    "AsyncClient": "arrowquant.http.async_client",
    "Client": "arrowquant.http.client",
}


def open(path: str | Path) -> Artifact:  # noqa: A001 - the name people expect: arrowquant.open
    """Open the artifact in a folder (or beside a `manifest.json`). Reads the manifest only."""
    from arrowquant.artifact.reader import Artifact

    return Artifact.open(path)


def verify(artifact: str | Path | Artifact, against: str | Path | None = None) -> Verification:
    """Check every digest, decode every tensor, and compare with the source when it is given."""
    from arrowquant.artifact.reader import Artifact

    if isinstance(artifact, Artifact):
        return artifact.verify(against)
    with Artifact.open(artifact) as model:
        return model.verify(against)


def dequantize(
    artifact: str | Path | Artifact, out: str | Path, *, overwrite: bool = False
) -> list[Path]:
    """Write the artifact back as safetensors; the files written."""
    from arrowquant.artifact.export import dequantize as run

    return run(artifact, out, overwrite=overwrite)


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    if name == "torch":  # arrowquant.torch.capture, where torch is installed
        from importlib import import_module

        return import_module("arrowquant.torch")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
