"""Every operation of the API as a method.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.api.api_keys import ApiKeysApi, AsyncApiKeysApi
from arrowquant.http.api.artifacts import ArtifactsApi, AsyncArtifactsApi
from arrowquant.http.api.connections import AsyncConnectionsApi, ConnectionsApi
from arrowquant.http.api.jobs import AsyncJobsApi, JobsApi
from arrowquant.http.api.operation import AsyncOperationApi, OperationApi
from arrowquant.http.api.plans import AsyncPlansApi, PlansApi
from arrowquant.http.api.quotas import AsyncQuotasApi, QuotasApi
from arrowquant.http.api.system import AsyncSystemApi, SystemApi
from arrowquant.http.api.webhooks import AsyncWebhooksApi, WebhooksApi


class Api(
    ApiKeysApi,
    ArtifactsApi,
    ConnectionsApi,
    JobsApi,
    OperationApi,
    PlansApi,
    QuotasApi,
    SystemApi,
    WebhooksApi,
):
    """Every operation."""


class AsyncApi(
    AsyncApiKeysApi,
    AsyncArtifactsApi,
    AsyncConnectionsApi,
    AsyncJobsApi,
    AsyncOperationApi,
    AsyncPlansApi,
    AsyncQuotasApi,
    AsyncSystemApi,
    AsyncWebhooksApi,
):
    """Every operation, to be awaited."""
