"""Operations of `artifacts`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Any

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import ArtifactList


class ArtifactsApi(SyncShell):
    """The operations of `artifacts`."""

    def get_report(self, job_id: str, *, output: str | None = None) -> dict[str, Any]:
        """Get the quality report."""
        return self._send(
            Call[dict[str, Any]]("GET", at("/v1/jobs/{}/report", job_id), {"output": output})
        )

    def list_artifacts(self, job_id: str, *, output: str | None = None) -> ArtifactList:
        """List the files of the artifact."""
        return self._send(
            Call[ArtifactList]("GET", at("/v1/jobs/{}/artifacts", job_id), {"output": output})
        )
