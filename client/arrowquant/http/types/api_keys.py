"""Types of api keys.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypeAlias, TypedDict

Scope: TypeAlias = Literal["jobs:read", "jobs:write", "artifacts:read", "admin", "operator"]


class ApiKey(TypedDict):
    """A key without its secret. `last_use_time` is exact to the minute. Until `grace_time` the
    secret before the last rotation works too.
    """

    id: str
    name: str
    scopes: list[Scope]
    create_time: str
    expire_time: str | None
    last_use_time: str | None
    revoke_time: str | None
    grace_time: str | None


class ApiKeyPage(TypedDict):
    """Keys, oldest first, ended ones too. With a `next_page_token` there are more."""

    api_keys: list[ApiKey]
    next_page_token: str | None


class ApiKeyRequest(TypedDict):
    """A key to be made, in your tenant."""

    name: str
    scopes: list[Scope]
    expire_time: NotRequired[str | None]


class RotateRequest(TypedDict):
    """How a key changes its secret."""

    grace_s: NotRequired[int]


class SecretApiKey(TypedDict):
    """A key with its secret, which is shown this once. In a replayed answer (`Idempotency-
    Key`) `secret` is null: it is not kept anywhere. If the first answer was lost, rotate
    the key.
    """

    id: str
    name: str
    scopes: list[Scope]
    create_time: str
    expire_time: str | None
    last_use_time: str | None
    revoke_time: str | None
    grace_time: str | None
    secret: str | None
