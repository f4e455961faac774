"""Operations of `plans`.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.calls import Call
from arrowquant.http.sync import SyncShell
from arrowquant.http.types import Plan, PlanBody


class PlansApi(SyncShell):
    """The operations of `plans`."""

    def create_plan(self, body: PlanBody, *, idempotency_key: str | None = None) -> Plan:
        """Plan a job."""
        return self._send(Call[Plan]("POST", "/v1/plans", body=body, key=idempotency_key))
