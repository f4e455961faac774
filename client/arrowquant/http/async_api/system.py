"""Operations of `system`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call
from arrowquant.http.types import Health, Ready, Schemes, Version


class AsyncSystemApi(AsyncShell):
    """The operations of `system`, to be awaited."""

    async def healthz(self) -> Health:
        """Is the process up."""
        return await self._send(Call[Health]("GET", "/healthz"))

    async def readyz(self) -> Ready:
        """Can requests be served."""
        return await self._send(Call[Ready]("GET", "/readyz"))

    async def get_version(self) -> Version:
        """Get the version."""
        return await self._send(Call[Version]("GET", "/version"))

    async def get_schemes(self) -> Schemes:
        """Get what can be asked for."""
        return await self._send(Call[Schemes]("GET", "/v1/schemes"))

    async def get_metrics(self) -> str:
        """Get metrics."""
        return await self._send(
            Call[str]("GET", "/metrics", answer="text", headers={"Accept": "text/plain"})
        )
