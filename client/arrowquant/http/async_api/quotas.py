"""Operations of `quotas`, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.aio import AsyncShell
from arrowquant.http.calls import Call, at
from arrowquant.http.types import DailyUsage, Quota, QuotaOverrides, TenantQuota


class AsyncQuotasApi(AsyncShell):
    """The operations of `quotas`, to be awaited."""

    async def get_quota(self) -> Quota:
        """Get your quota."""
        return await self._send(Call[Quota]("GET", "/v1/quota"))

    async def get_usage(self, *, from_: str | None = None, to: str | None = None) -> DailyUsage:
        """Get your usage."""
        return await self._send(Call[DailyUsage]("GET", "/v1/usage", {"from": from_, "to": to}))

    async def get_tenant_quota(self, tenant: str) -> TenantQuota:
        """Get the quota of a tenant."""
        return await self._send(Call[TenantQuota]("GET", at("/v1/quotas/{}", tenant)))

    async def set_tenant_quota(
        self, tenant: str, body: QuotaOverrides, *, idempotency_key: str | None = None
    ) -> TenantQuota:
        """Set the quota of a tenant."""
        return await self._send(
            Call[TenantQuota]("PUT", at("/v1/quotas/{}", tenant), body=body, key=idempotency_key)
        )
