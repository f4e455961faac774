"""Operations of `plans`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call
from arrowquant.http.types import Plan, PlanBody


class AsyncPlansApi(AsyncShell):
    """The operations of `plans`, to be awaited."""

    async def create_plan(self, body: PlanBody, *, idempotency_key: str | None = None) -> Plan:
        """Plan a job."""
        return await self._send(Call[Plan]("POST", "/v1/plans", body=body, key=idempotency_key))
