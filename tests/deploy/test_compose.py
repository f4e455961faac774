"""The compose file, as it comes and with the example's environment."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, S3Connection, Settings

REFERENCE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


@pytest.fixture(scope="module")
def text(root: Path) -> str:
    return (root / "docker" / "compose.yaml").read_text()


@pytest.fixture(scope="module")
def example(root: Path) -> dict[str, str]:
    lines = (root / "docker" / "example.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def services(text: str, example: dict[str, str]) -> dict[str, Any]:
    """With variables put in as compose does; what is required must be in the example."""

    def fill(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        if name in example:
            return example[name]
        assert kind == "-", f"{name} is required and not in example.env"
        return str(default)

    return dict(yaml.safe_load(REFERENCE.sub(fill, text))["services"])


def test_only_settings_are_set(services: dict[str, Any], variables: set[str]) -> None:
    for service in services.values():
        names = (
            {name for name in service["environment"] if name.startswith(PREFIX)}
            if ("environment" in service)
            else set()
        )
        assert names <= variables


@pytest.mark.parametrize("name", ["api", "worker"])
def test_the_service_accepts_what_is_set(
    services: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = services[name]["environment"]
    for variable, value in environment.items():
        monkeypatch.setenv(variable, str(value))
    settings = Settings.load()
    assert set(settings.connections) == {"models", "artifacts"}
    for connection in settings.connections.values():
        assert isinstance(connection, S3Connection)
        assert {connection.access_key_id_env, connection.secret_access_key_env} <= set(environment)
    assert settings.resolved_database_url.startswith("postgresql+psycopg://")
    assert settings.resolved_broker_url.startswith("redis://")


@pytest.mark.parametrize("name", ["api", "worker"])
def test_our_containers_may_do_nothing(services: dict[str, Any], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service["tmpfs"]) == {"/tmp", "/var/lib/arrowquant"}
    assert service["mem_limit"]
    assert service["build"]["target"] == name


def test_images_are_named_exactly(services: dict[str, Any]) -> None:
    for service in services.values():
        tag = service["image"].rpartition(":")[2]
        assert re.search(r"\d", tag), service["image"]


def test_everything_waits_until_the_rest_is_well(services: dict[str, Any]) -> None:
    # The API's check is in its image.
    assert {name for name, one in services.items() if "healthcheck" in one} == {
        "worker",
        "postgres",
        "redis",
        "objects",
    }
    for service in services.values():
        waits = service.get("depends_on", {}).values()
        assert {one["condition"] for one in waits} <= {"service_healthy"}


def test_redis_keeps_every_message(services: dict[str, Any]) -> None:
    command = services["redis"]["command"][-1]
    for part in ("--appendonly yes", "--maxmemory-policy noeviction", "requirepass %s"):
        assert part in command


def test_only_the_api_is_reached_and_only_from_this_machine(services: dict[str, Any]) -> None:
    published = {name: one["ports"] for name, one in services.items() if "ports" in one}
    assert published == {"api": ["127.0.0.1:8080:8080"]}


def test_no_secret_is_written_down(text: str, example: dict[str, str]) -> None:
    assert set(example.values()) == {"change-me"}
    secrets = re.findall(r"^\s+\w*(?:PASSWORD|SECRET|_ID|_KEYS): (.*)$", text, re.MULTILINE)
    assert secrets
    assert all(REFERENCE.fullmatch(value.strip('"')) for value in secrets)


@pytest.mark.parametrize("name", ["api", "worker"])
def test_keys_and_further_settings_reach_both(
    text: str, services: dict[str, Any], name: str, root: Path
) -> None:
    assert services[name]["environment"]["ARROWQUANT_SECRET_KEYS"] == ""
    assert 'ARROWQUANT_SECRET_KEYS: "${SECRET_KEYS:-}"' in text
    assert services[name]["env_file"] == [{"path": "settings.env", "required": False}]
    ignored = (root / ".gitignore").read_text().splitlines()
    assert {".env", "/docker/settings.env"} <= set(ignored)


def test_the_example_names_every_variable_of_the_file(root: Path, text: str) -> None:
    lines = (root / "docker" / "example.env").read_text()
    named = set(re.findall(r"^(?:# )?([A-Z_]+)=", lines, re.MULTILINE))
    assert named == {match[0] for match in REFERENCE.findall(text)}
