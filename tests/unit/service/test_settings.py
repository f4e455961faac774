"""Configuration: what it accepts, what it refuses, and that it never shows a secret."""

from __future__ import annotations

import io
import json
import logging
import sys
from pathlib import Path

import pytest
import structlog
from pydantic import ValidationError

from service import logs
from service.settings import (
    FolderConnection,
    InvalidSettings,
    S3Connection,
    Settings,
    available_cpus,
    is_loopback,
)


@pytest.fixture(autouse=True)
def _own_data_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ARROWQUANT_DATA_DIR", str(tmp_path))


def test_defaults_are_the_embedded_ones(tmp_path: Path) -> None:
    settings = Settings.load()

    assert settings.resolved_database_url == f"sqlite:///{tmp_path}/arrowquant.db"
    assert settings.broker_url is None
    assert settings.auth
    assert settings.host == "127.0.0.1"
    assert settings.connections == {}
    assert settings.max_body_bytes == 2**20
    assert settings.threads >= 1


def test_the_environment_sets_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARROWQUANT_DATABASE_URL", "postgresql+psycopg://u:hunter2@db/aq")
    monkeypatch.setenv("ARROWQUANT_MAX_MEMORY_BYTES", "512MiB")
    monkeypatch.setenv("ARROWQUANT_LOG_LEVEL", "DEBUG")
    monkeypatch.setenv("ARROWQUANT_PORT", "")

    settings = Settings.load(port=9000)

    assert settings.resolved_database_url == "postgresql+psycopg://u:hunter2@db/aq"
    assert settings.max_memory_bytes == 512 * 2**20
    assert settings.log_level == "debug"
    assert settings.port == 9000
    assert "hunter2" not in repr(settings)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings.load().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_no_authentication_only_on_loopback(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("ARROWQUANT_AUTH", "off")
    assert not Settings.load().auth

    monkeypatch.setenv("ARROWQUANT_HOST", host)
    with pytest.raises(InvalidSettings, match="ARROWQUANT_AUTH=off is only allowed"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("PORT", "99999", "ARROWQUANT_PORT"),
        ("LEASE_S", "1", "HEARTBEAT_S must be at most half"),
        ("MAX_MEMORY_BYTES", "1MiB", "at least 256MiB"),
        ("LOG_LEVEL", "loud", "ARROWQUANT_LOG_LEVEL"),
        ("CONNECTIONS", "{", "connections"),
        ("CONNECTIONS", '{"Bad Name": {"kind": "folder", "path": "/x"}}', "CONNECTIONS"),
        ("CONNECTIONS", '{"a": {"kind": "folder", "path": "x"}}', "must be absolute"),
        ("CONNECTIONS", '{"a": {"kind": "ftp"}}', "ftp|kind"),
        ("CONNECTIONS_FILE", "/nowhere/connections.toml", "does not exist"),
    ],
)
def test_wrong_values_are_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str
) -> None:
    monkeypatch.setenv("ARROWQUANT_HEARTBEAT_S", "1")
    monkeypatch.setenv(f"ARROWQUANT_{name}", value)
    with pytest.raises(InvalidSettings, match=says):
        Settings.load()


def test_errors_do_not_show_values(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = {"a": {"kind": "s3", "bucket": "models", "secret_access_key": "hunter2"}}
    monkeypatch.setenv("ARROWQUANT_CONNECTIONS", json.dumps(spec))
    with pytest.raises(InvalidSettings) as caught:
        Settings.load()
    assert "secret_access_key" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_connections_come_from_a_file_and_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "connections.toml").write_text(
        '[models]\nkind = "folder"\npath = "/srv/models"\n'
        '[bucket]\nkind = "s3"\nbucket = "weights"\nregion = "eu-west-1"\nprefix = "a/b"\n'
    )
    monkeypatch.setenv("ARROWQUANT_CONNECTIONS", '{"models": {"kind": "folder", "path": "/other"}}')

    connections = Settings.load().connections

    assert connections["models"] == FolderConnection(kind="folder", path=Path("/other"))
    bucket = connections["bucket"]
    assert isinstance(bucket, S3Connection)
    assert bucket.prefix == "a/b/"
    assert not bucket.uses_path_style


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "connections.toml").write_text("[models\n")
    with pytest.raises(InvalidSettings, match=r"connections\.toml"):
        Settings.load()


@pytest.mark.parametrize(
    ("url", "allow_http", "fine"),
    [
        ("https://s3.example.org", False, True),
        ("http://127.0.0.1:9000", False, True),
        ("http://localhost:9000", False, True),
        ("http://s3.example.org", False, False),
        ("http://s3.example.org", True, True),
        ("http://127.0.0.1.example.org", False, False),
        ("https://user:password@s3.example.org", False, False),
        ("https://s3.example.org/?x=1", False, False),
        ("file:///etc", True, False),
        ("s3.example.org", True, False),
    ],
)
def test_endpoints(url: str, allow_http: bool, fine: bool) -> None:
    def build() -> S3Connection:
        return S3Connection(kind="s3", bucket="abc", endpoint_url=url, allow_http=allow_http)

    if fine:
        assert build().uses_path_style
    else:
        with pytest.raises(ValidationError):
            build()


def test_half_a_credential_is_refused() -> None:
    with pytest.raises(ValidationError, match="both"):
        S3Connection(kind="s3", bucket="abc", access_key_id_env="A")


@pytest.mark.parametrize("region", ["eu-west-1\n", "eu.west", "x@evil.example", ""])
def test_a_region_cannot_change_the_host(region: str) -> None:
    with pytest.raises(ValidationError):
        S3Connection(kind="s3", bucket="abc", region=region)


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "", "localhost.example.org")))


def test_the_quota_of_the_cgroup_limits_threads(tmp_path: Path) -> None:
    unlimited = available_cpus(tmp_path)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert available_cpus(tmp_path) == 1
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert available_cpus(tmp_path) == unlimited


SECRETS = {
    "password": "hunter2",
    "aws_secret_access_key": "hunter2",
    "authorization": "Bearer hunter2hunter2",
    "nested": {"headers": [{"X-Api-Key": "hunter2"}]},
    "url": "redis://:hunter2@localhost/0",
    "presigned": "https://s3/x?X-Amz-Credential=hunter2&X-Amz-Signature=hunter2&partNumber=3",
    "text": "sent Authorization: Bearer hunter2hunter2 to aq_ab12_hunter2hunter2",
    "error": ValueError("postgresql://me:hunter2@db/x failed"),
}


def test_secrets_are_taken_out_of_events() -> None:
    event = logs.redact(None, "info", {"event": "x", "job_id": "job_1", "bytes": 3, **SECRETS})
    assert "hunter2" not in repr(event)
    assert event["job_id"] == "job_1"
    assert event["bytes"] == 3
    assert "partNumber=3" in event["presigned"]


def test_log_lines_are_json_with_context(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("info", "json")
        with logs.bind(job_id="job_1", unit=3):
            structlog.get_logger("a").info("began", password="hunter2")
            logging.getLogger("b").warning("slow %s", "redis://:hunter2@h/0")
        try:
            raise ValueError("https://u:hunter2@h/")
        except ValueError:
            structlog.get_logger("a").exception("failed")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        structlog.reset_defaults()

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "began", "slow redis://[redacted]@h/0", "failed",
    ]  # fmt: skip
    assert (lines[0]["job_id"], lines[0]["unit"], lines[0]["level"]) == ("job_1", 3, "info")
    assert "job_id" not in lines[2]
    assert "ValueError" in lines[2]["exception"]
    assert "hunter2" not in stream.getvalue()


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_postgresql_is_reached_with_the_driver_we_have(tmp_path: Path, scheme: str) -> None:
    settings = Settings.load(data_dir=tmp_path, database_url=f"{scheme}://u:p@host/db")
    assert settings.resolved_database_url == "postgresql+psycopg://u:p@host/db"


@pytest.mark.parametrize("url", ["mysql://u:secret@host/db", "host/db", "sqlite://"])
def test_other_databases_are_refused_without_showing_the_address(tmp_path: Path, url: str) -> None:
    with pytest.raises(InvalidSettings, match="postgresql://") as caught:
        Settings.load(data_dir=tmp_path, database_url=url)
    assert "secret" not in str(caught.value)
