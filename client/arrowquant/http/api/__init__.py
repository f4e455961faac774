"""Every operation of the API as a method.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.api.api_keys import ApiKeysApi
from arrowquant.http.api.artifacts import ArtifactsApi
from arrowquant.http.api.audit import AuditApi
from arrowquant.http.api.batches import BatchesApi
from arrowquant.http.api.connections import ConnectionsApi
from arrowquant.http.api.jobs import JobsApi
from arrowquant.http.api.operation import OperationApi
from arrowquant.http.api.plans import PlansApi
from arrowquant.http.api.quotas import QuotasApi
from arrowquant.http.api.recipes import RecipesApi
from arrowquant.http.api.replays import ReplaysApi
from arrowquant.http.api.system import SystemApi
from arrowquant.http.api.webhooks import WebhooksApi


class Api(
    ApiKeysApi,
    ArtifactsApi,
    AuditApi,
    BatchesApi,
    ConnectionsApi,
    JobsApi,
    OperationApi,
    PlansApi,
    QuotasApi,
    RecipesApi,
    ReplaysApi,
    SystemApi,
    WebhooksApi,
):
    """Every operation."""
