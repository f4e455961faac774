"""Operations of `plans`, blocking and not.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import Plan, PlanBody


class PlansApi(SyncShell):
    """The operations of `plans`."""

    def create_plan(self, body: PlanBody, *, idempotency_key: str | None = None) -> Plan:
        """Plan a job."""
        return self._send(Call[Plan]("POST", "/v1/plans", body=body, key=idempotency_key))


class AsyncPlansApi(AsyncShell):
    """The operations of `plans`, to be awaited."""

    async def create_plan(self, body: PlanBody, *, idempotency_key: str | None = None) -> Plan:
        """Plan a job."""
        return await self._send(Call[Plan]("POST", "/v1/plans", body=body, key=idempotency_key))
