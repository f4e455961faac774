"""Artifacts: the report and the files of a job that succeeded."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path
from starlette.responses import RedirectResponse, Response, StreamingResponse

from service.usecases.artifacts import Download
from service.web.answers import JSON, failures, json_answer
from service.web.auth import ArtifactsRead
from service.web.context import Shared
from service.web.routes.parameters import JobId, OutputName
from service.web.schemas import ArtifactList, ArtifactOut

router = APIRouter(prefix="/v1/jobs/{job_id}", tags=["artifacts"])

_FAILURES: Final = (
    "not_found",
    "not_ready",
    "invalid_spec",
    "digest_mismatch",
    "storage_unavailable",
    "storage_throttled",
    "storage_timeout",
    "storage_access_denied",
)
ARROW: Final = "application/vnd.apache.arrow.file"
_BINARY: Final = {"schema": {"type": "string", "format": "binary"}}


@router.get(
    "/report",
    operation_id="get_report",
    summary="Get the quality report",
    response_class=Response,
    responses={
        200: {
            "description": "`report.json` of the artifact.",
            "content": {JSON: {"schema": {"type": "object"}}},
        },
        **failures(*_FAILURES),
    },
)
def get_report(
    job_id: JobId, tenant: ArtifactsRead, shared: Shared, output: OutputName = None
) -> Response:
    """Totals, the worst tensors, everything that was stored wider than asked, and the errors of
    every tensor: the `report.json` of the artifact, byte for byte."""
    return _streamed(shared.artifacts.report(job_id, tenant, output), JSON, {})


@router.get(
    "/artifacts",
    operation_id="list_artifacts",
    summary="List the files of the artifact",
    response_model=ArtifactList,
    responses=failures(*_FAILURES),
)
def list_artifacts(
    job_id: JobId, tenant: ArtifactsRead, shared: Shared, output: OutputName = None
) -> Response:
    """The manifest, the report and the parts, with sizes and SHA-256; of every output, where the
    job has several and none is named."""
    files = [
        ArtifactOut(
            output=which,
            name=file.name,
            bytes=file.nbytes,
            sha256=file.sha256,
            download_url=f"/v1/jobs/{job_id}/artifacts/{file.name}/download"
            + (f"?output={which}" if which else ""),
        )
        for which, file in shared.artifacts.files(job_id, tenant, output)
    ]
    return json_answer(ArtifactList(artifacts=files))


@router.get(
    "/artifacts/{name}/download",
    operation_id="download_artifact",
    summary="Download a file of the artifact",
    response_class=Response,
    responses={
        200: {
            "description": "The file, where the store has no addresses of its own.",
            "content": {ARROW: _BINARY, JSON: {"schema": {"type": "object"}}},
        },
        307: {"description": "Go to `Location`, an address that holds for minutes."},
        **failures(*_FAILURES),
    },
)
def download_artifact(
    job_id: JobId,
    name: Annotated[str, Path(description="A name from the list.", examples=["manifest.json"])],
    tenant: ArtifactsRead,
    shared: Shared,
    output: OutputName = None,
) -> Response:
    """A redirect to a short-lived address of the object store, or the bytes themselves. Compare
    them with the SHA-256 of the list."""
    seconds = shared.deps.settings.presign_s
    download = shared.artifacts.download(job_id, tenant, name, seconds, output)
    if download.url is not None:
        return RedirectResponse(download.url, 307, {"Cache-Control": "no-store"})
    kind = JSON if name.endswith(".json") else ARROW
    return _streamed(download, kind, {"Content-Disposition": f'attachment; filename="{name}"'})


def _streamed(download: Download, media_type: str, headers: dict[str, str]) -> Response:
    file = download.file
    digest = base64.b64encode(bytes.fromhex(file.sha256)).decode("ascii")
    headers |= {
        "Content-Length": str(file.nbytes),
        "ETag": f'"{file.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "X-Content-SHA256": file.sha256,
        "Cache-Control": "private, no-cache",
    }
    chunks: Any = download.chunks
    return StreamingResponse(chunks, headers=headers, media_type=media_type)
