"""Types of connections.

Made from openapi.yaml by `make client`; not to be edited.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class ConnectionChange(TypedDict):
    """What is to be different. A field that is left out stays as it is."""

    endpoint_url: NotRequired[str | None]
    region: NotRequired[str | None]
    bucket: NotRequired[str | None]
    prefixes: NotRequired[list[str] | None]
    path_style: NotRequired[bool | None]
    credentials: NotRequired[CredentialsRequest | None]


class ConnectionDetail(TypedDict):
    """A connection of your tenant, as its admins see it."""

    name: str
    kind: Literal["s3"]
    managed_by: Literal["tenant"]
    endpoint_url: str | None
    region: str | None
    bucket: str
    prefixes: list[str]
    path_style: bool | None
    credentials: Credentials
    create_time: str
    update_time: str


class ConnectionList(TypedDict):
    """The connections that `source` and `output` may name."""

    connections: list[Connection]


class Connection(TypedDict):
    """A named place that `source` and `output` may name. `managed_by` is `operator` for those
    of the service's configuration, `tenant` for your own; `prefixes` are what jobs may use
    of it, where it is your own.
    """

    name: str
    kind: str
    managed_by: Literal["operator", "tenant"]
    prefixes: list[str] | None


class ConnectionRequest(TypedDict):
    """A bucket of S3, or of a store that speaks its protocol, and what jobs may use of it."""

    name: str
    kind: NotRequired[Literal["s3"]]
    endpoint_url: NotRequired[str | None]
    region: NotRequired[str | None]
    bucket: str
    prefixes: list[str]
    path_style: NotRequired[bool | None]
    credentials: CredentialsRequest


class Credentials(TypedDict):
    """Where the credentials come from and since when; `env` is the operator's name for them.
    What was given is never shown again.
    """

    kind: Literal["stored", "env", "ambient"]
    env: str | None
    update_time: str


class CredentialsRequest(TypedDict):
    """Where the credentials come from, in one of three ways.

    - `access_key_id` and `secret_access_key` (and `session_token`): stored encrypted, never
    shown.

    - `env`: a name under which the operator has granted your tenant credentials of the
    service.

    - `ambient`: the role of the service itself, if the operator has granted it to your
    tenant.
    """

    access_key_id: NotRequired[str | None]
    secret_access_key: NotRequired[str | None]
    session_token: NotRequired[str | None]
    env: NotRequired[str | None]
    ambient: NotRequired[Literal[True] | None]


class Step(TypedDict):
    """One step. `code` is one of the service's error codes, and all that is said of a failure."""

    name: Literal["list", "write", "read", "delete"]
    ok: bool
    code: str | None


class Try(TypedDict):
    """What a job could do with the prefix. A step that could not be tried is not there."""

    ok: bool
    prefix: str
    steps: list[Step]


class TryRequest(TypedDict):
    """What to try: a prefix of the connection, and whether to write there too."""

    prefix: NotRequired[str | None]
    write: NotRequired[bool]
