"""Operations of `system`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.calls import Call
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import Health, Ready, Schemes, Version


class SystemApi(SyncShell):
    """The operations of `system`."""

    def healthz(self) -> Health:
        """Is the process up."""
        return self._send(Call[Health]("GET", "/healthz"))

    def readyz(self) -> Ready:
        """Can requests be served."""
        return self._send(Call[Ready]("GET", "/readyz"))

    def get_version(self) -> Version:
        """Get the version."""
        return self._send(Call[Version]("GET", "/version"))

    def get_schemes(self) -> Schemes:
        """Get what can be asked for."""
        return self._send(Call[Schemes]("GET", "/v1/schemes"))

    def get_metrics(self) -> str:
        """Get metrics."""
        return self._send(
            Call[str]("GET", "/metrics", answer="text", headers={"Accept": "text/plain"})
        )
