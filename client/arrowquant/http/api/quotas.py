"""Operations of `quotas`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.calls import Call, at
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import DailyUsage, Quota, QuotaOverrides, TenantQuota


class QuotasApi(SyncShell):
    """The operations of `quotas`."""

    def get_quota(self) -> Quota:
        """Get your quota."""
        return self._send(Call[Quota]("GET", "/v1/quota"))

    def get_usage(self, *, from_: str | None = None, to: str | None = None) -> DailyUsage:
        """Get your usage."""
        return self._send(Call[DailyUsage]("GET", "/v1/usage", {"from": from_, "to": to}))

    def get_tenant_quota(self, tenant: str) -> TenantQuota:
        """Get the quota of a tenant."""
        return self._send(Call[TenantQuota]("GET", at("/v1/quotas/{}", tenant)))

    def set_tenant_quota(
        self, tenant: str, body: QuotaOverrides, *, idempotency_key: str | None = None
    ) -> TenantQuota:
        """Set the quota of a tenant."""
        return self._send(
            Call[TenantQuota]("PUT", at("/v1/quotas/{}", tenant), body=body, key=idempotency_key)
        )
