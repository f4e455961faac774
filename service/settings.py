"""All configuration, read once at an entry point and passed down from there.

Every field is set by an environment variable with the prefix `ARROWQUANT_`. Credentials of object
stores are never written here: a connection names the variables that hold them, or leaves them to
the usual AWS chain.
"""

from __future__ import annotations

import math
import os
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import platformdirs
from pydantic import (
    ByteSize,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError

from service.connection_settings import (
    Connection,
    FolderConnection,
    Grant,
    S3Connection,
    is_loopback,
    is_safe_url,
)
from service.domain.access import Scope
from service.domain.connections import ConnectionName
from service.domain.egress import EgressPolicy
from service.domain.quotas import LIMITS, Quota
from service.domain.vault import decode_key

PREFIX = "ARROWQUANT_"

__all__ = [
    "PREFIX",
    "Connection",
    "FolderConnection",
    "Grant",
    "InvalidSettings",
    "S3Connection",
    "Settings",
    "available_cpus",
    "is_loopback",
]


class InvalidSettings(ValueError):
    """The configuration is wrong. The text names each variable and never shows its value."""


def available_cpus(root: Path = Path("/sys/fs/cgroup")) -> int:
    """Processors this process may really use: its affinity, cut to the quota of its cgroup."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, *(math.ceil(quota) for quota in _quotas(root))]))


def _quotas(root: Path) -> list[float]:
    folders = [root]
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="utf-8").rpartition("0::/")[2].strip()
        folders += [root / own, *(root / parent for parent in Path(own).parents)]
    except OSError:
        pass
    found = []
    for folder in folders:
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
            found.append(int(quota) / int(period))
        except (OSError, ValueError):
            continue  # no such group, or "max": no quota
    return found


class Settings(BaseSettings):
    """The configuration of one process. Unset fields mean the embedded default."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
    )

    data_dir: Path = Field(default_factory=lambda: Path(platformdirs.user_data_dir("arrowquant")))
    database_url: str | None = Field(None, repr=False)
    database_timeout_s: float = Field(10.0, gt=0, le=600)
    broker_url: str | None = Field(None, repr=False)
    connections: dict[ConnectionName, Connection] = {}
    connections_file: Path | None = None
    credentials: dict[ConnectionName, Grant] = {}
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    auth: bool = True
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "console", "json"] = "auto"
    # Where metrics are served without a key; on no port unless one is given.
    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = Field(None, ge=1, le=65535)
    lease_s: float = Field(15.0, gt=0, le=3600)
    heartbeat_s: float = Field(1.0, gt=0, le=600)
    max_attempts: int = Field(25, ge=1, le=1000)
    threads: int = Field(default_factory=available_cpus, ge=1, le=256)
    max_memory_bytes: ByteSize | None = None
    # What slow or many clients may take: seconds without a byte, open streams, open requests.
    client_timeout_s: float = Field(20.0, gt=0, le=3600)
    max_streams: int = Field(2000, ge=0)
    max_streams_per_tenant: int = Field(200, ge=0)
    max_requests: int = Field(4000, ge=1)
    max_body_bytes: ByteSize = ByteSize(2**20)
    max_batch_bytes: ByteSize = ByteSize(100 * 2**20)
    max_batch_lines: int = Field(50_000, ge=1, le=1_000_000)
    replaced_keep_s: int = Field(3600, ge=0, le=30 * 86400)
    retention_days: int | None = Field(None, ge=1, le=3650)
    tenant_retention_days: dict[str, Annotated[int, Field(ge=1, le=3650)]] = {}
    webhook_timeout_s: float = Field(15.0, ge=1, le=30)
    webhook_at_once: int = Field(16, ge=1, le=64)
    webhook_retry_hours: int = Field(72, ge=1, le=30 * 24)
    webhook_disable_hours: int = Field(120, ge=1, le=90 * 24)
    webhook_keep_days: int = Field(30, ge=1, le=3650)
    presign_s: int = Field(900, ge=1, le=7 * 86400)
    secret_keys: Annotated[tuple[str, ...], NoDecode] = Field((), repr=False)
    egress_allow: Annotated[tuple[str, ...], NoDecode] = ()
    quota_running_jobs: int | None = Field(None, ge=1)
    quota_queued_jobs: int | None = Field(100_000, ge=0)
    quota_bytes_per_day: ByteSize | None = None
    quota_requests_per_minute: int | None = Field(None, ge=1)
    audit_retention_days: int = Field(365, ge=0, le=36500)
    oidc_issuer: str | None = None
    oidc_audience: str | None = None
    oidc_jwks_url: str | None = None
    oidc_tenant_claim: str = "tenant"
    oidc_scopes_claim: str = "scope"
    oidc_scopes: dict[str, tuple[Scope, ...]] = {}

    @field_validator("data_dir", "connections_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @field_validator("database_url")
    @classmethod
    def _supported_database(cls, value: str | None) -> str | None:
        if value is None:
            return None
        scheme, separator, rest = value.partition("://")
        if separator and scheme in ("postgres", "postgresql", "postgresql+psycopg"):
            return f"postgresql+psycopg://{rest}"  # the driver that is installed
        if value.startswith("sqlite:///"):
            return value
        raise ValueError(
            "write postgresql://user:password@host/database or sqlite:////path/file.db"
        )

    @field_validator("egress_allow", "secret_keys", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return _words(value)

    @field_validator("secret_keys")
    @classmethod
    def _keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            decode_key(text)
        return value

    @field_validator("egress_allow")
    @classmethod
    def _places(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        EgressPolicy.of(value)
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value

    @field_validator(*(f"quota_{name}" for name in LIMITS), mode="before")
    @classmethod
    def _unlimited(cls, value: Any) -> Any:
        return None if isinstance(value, str) and value.lower() == "none" else value

    @field_validator("oidc_issuer", "oidc_jwks_url")
    @classmethod
    def _encrypted(cls, value: str | None) -> str | None:
        if value is not None and not is_safe_url(value):
            raise ValueError("write https://host/path; http only on a loopback address")
        return value

    @field_validator("max_memory_bytes")
    @classmethod
    def _enough(cls, value: ByteSize | None) -> ByteSize | None:
        if value is not None and value < 256 * 2**20:
            raise ValueError("at least 256MiB are needed")
        return value

    @model_validator(mode="after")
    def _safe(self) -> Self:
        if self.heartbeat_s * 2 > self.lease_s:
            raise ValueError("ARROWQUANT_HEARTBEAT_S must be at most half of ARROWQUANT_LEASE_S")
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("set both ARROWQUANT_OIDC_ISSUER and ARROWQUANT_OIDC_AUDIENCE")
        if not self.auth and not is_loopback(self.host):
            raise ValueError(
                "ARROWQUANT_AUTH=off is only allowed on a loopback address: "
                "set ARROWQUANT_HOST=127.0.0.1, or leave authentication on"
            )
        return self

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment and the connections file. Raises InvalidSettings.

        overrides  fields given on a command line; they win
        """
        try:
            settings = cls(**overrides)
            listed = _read_connections(settings)
            if not listed:
                return settings
            # Named in the file and in the environment: the environment wins.
            overrides["connections"] = listed | settings.connections
            return cls(**overrides)
        except ValidationError as error:
            raise InvalidSettings(_describe(error)) from None
        except SettingsError as error:
            raise InvalidSettings(str(error)) from None

    def keep_days(self, tenant: str) -> int | None:
        """Days for which a tenant's jobs are kept after their end; None: until deleted."""
        return self.tenant_retention_days.get(tenant, self.retention_days)

    @property
    def quota(self) -> Quota:
        """The limits of tenants that have none of their own."""
        return Quota(**{name: getattr(self, f"quota_{name}") for name in LIMITS})

    @property
    def audit_keep(self) -> timedelta | None:
        """How long a line of the audit log is kept; None: for ever."""
        return timedelta(days=self.audit_retention_days) if self.audit_retention_days else None

    @property
    def resolved_database_url(self) -> str:
        """The database's address, or that of a file in the data folder."""
        return self.database_url or f"sqlite:///{self.data_dir / 'arrowquant.db'}"

    @property
    def resolved_broker_url(self) -> str:
        """The broker's address, or files in the data folder: a slow bell, but one is always there.

        `arrowquant serve` starts a Redis of its own and sets the address itself.
        """
        return self.broker_url or "filesystem://"


def _read_connections(settings: Settings) -> dict[str, Any]:
    path = settings.connections_file or settings.data_dir / "connections.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if settings.connections_file is None:
            return {}
        raise InvalidSettings(f"{PREFIX}CONNECTIONS_FILE: {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"{path}: {error}") from None
    return table


def _describe(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_input=False, include_url=False, include_context=False):
        where = [str(part) for part in item["loc"]]
        name = ".".join([PREFIX + where[0].upper(), *where[1:]]) + ": " if where else ""
        lines.append(name + item["msg"].removeprefix("Value error, "))
    return "\n".join(lines)


def _words(value: Any) -> Any:
    """A list as a variable holds it: separated by commas."""
    if not isinstance(value, str):
        return value
    return tuple(word for part in value.split(",") if (word := part.strip()))
