"""Every operation of the API as a method, to be awaited.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.async_api.api_keys import AsyncApiKeysApi
from arrowquant.http.async_api.artifacts import AsyncArtifactsApi
from arrowquant.http.async_api.audit import AsyncAuditApi
from arrowquant.http.async_api.batches import AsyncBatchesApi
from arrowquant.http.async_api.connections import AsyncConnectionsApi
from arrowquant.http.async_api.jobs import AsyncJobsApi
from arrowquant.http.async_api.operation import AsyncOperationApi
from arrowquant.http.async_api.plans import AsyncPlansApi
from arrowquant.http.async_api.quotas import AsyncQuotasApi
from arrowquant.http.async_api.recipes import AsyncRecipesApi
from arrowquant.http.async_api.replays import AsyncReplaysApi
from arrowquant.http.async_api.system import AsyncSystemApi
from arrowquant.http.async_api.webhooks import AsyncWebhooksApi


class AsyncApi(
    AsyncApiKeysApi,
    AsyncArtifactsApi,
    AsyncAuditApi,
    AsyncBatchesApi,
    AsyncConnectionsApi,
    AsyncJobsApi,
    AsyncOperationApi,
    AsyncPlansApi,
    AsyncQuotasApi,
    AsyncRecipesApi,
    AsyncReplaysApi,
    AsyncSystemApi,
    AsyncWebhooksApi,
):
    """Every operation, to be awaited."""
