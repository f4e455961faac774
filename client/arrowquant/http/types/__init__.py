"""What the API takes and gives, as types.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from arrowquant.http.types.api_keys import (
    ApiKey,
    ApiKeyPage,
    ApiKeyRequest,
    RotateRequest,
    Scope,
    SecretApiKey,
)
from arrowquant.http.types.artifacts import Artifact, ArtifactList
from arrowquant.http.types.jobs import (
    Event,
    EventPage,
    EventType,
    Job,
    JobError,
    JobPage,
    JobRequest,
    JobState,
    Links,
    Phase,
    Progress,
    Tensor,
    TensorPage,
    TensorState,
)
from arrowquant.http.types.plans import (
    Gate,
    Plan,
    PlanBody,
    PlannedTensor,
    PlanTotals,
    ResolvedRecipe,
    SourceObject,
    Warned,
)
from arrowquant.http.types.shared import Fallback, Limits, Output, Recipe, Role, Rule, Source
from arrowquant.http.types.system import (
    Check,
    Connection,
    ConnectionList,
    GateOut,
    Health,
    Profile,
    Ready,
    Schemes,
    Version,
)

__all__ = [
    "ApiKey",
    "ApiKeyPage",
    "ApiKeyRequest",
    "Artifact",
    "ArtifactList",
    "Check",
    "Connection",
    "ConnectionList",
    "Event",
    "EventPage",
    "EventType",
    "Fallback",
    "Gate",
    "GateOut",
    "Health",
    "Job",
    "JobError",
    "JobPage",
    "JobRequest",
    "JobState",
    "Limits",
    "Links",
    "Output",
    "Phase",
    "Plan",
    "PlanBody",
    "PlanTotals",
    "PlannedTensor",
    "Profile",
    "Progress",
    "Ready",
    "Recipe",
    "ResolvedRecipe",
    "Role",
    "RotateRequest",
    "Rule",
    "Schemes",
    "Scope",
    "SecretApiKey",
    "Source",
    "SourceObject",
    "Tensor",
    "TensorPage",
    "TensorState",
    "Version",
    "Warned",
]
